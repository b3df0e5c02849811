package verify

import "time"

const (
	// CodeLifetime is how long a code may be used.
	CodeLifetime = 180 * time.Second
	// CodeResend is the pause before an address gets another code.
	CodeResend = 60 * time.Second
	// CodeTries is how many wrong tries a code survives.
	CodeTries = 5
	// CodeDigits is the length of a code.
	CodeDigits = 6

	// freeAttempts is how many passwords may be tried at once; from then on
	// each waits twice as long as the one before, up to attemptDelayMax.
	// Ten are more than a person mistypes in a row.
	freeAttempts    = 10
	attemptDelay    = time.Second
	attemptDelayMax = 5 * time.Minute
	// attemptsForgotten is the quiet time after which guesses are forgotten.
	attemptsForgotten = time.Hour
)

// Limit bounds how often one thing happens: Burst at once, Count per Per in
// the long run.
type Limit struct {
	Name  string // part of the key
	Count int
	Burst int
	Per   time.Duration
}

// The limits on what anybody can ask for without being logged in. Those per
// client address have room for a household or an office behind one address.

// CodesPerMailbox bounds the mail one mailbox gets. It is not lower because
// strangers can use it up; what they cause is a valid code for the owner.
func CodesPerMailbox() Limit { return Limit{"codes-mailbox", 20, 20, time.Hour} }

// CodesPerClient bounds the mails one client address causes.
func CodesPerClient() Limit { return Limit{"codes-client", 60, 20, time.Hour} }

// CodesInAll bounds the mails of the whole cluster.
func CodesInAll() Limit { return Limit{"codes-all", 1200, 1200, time.Minute} }

// GuessesPerClient bounds the codes one client address tries.
func GuessesPerClient() Limit { return Limit{"guesses-client", 60, 30, time.Hour} }

// LoginsPerClient bounds the passwords one client address tries, over all
// names: what the throttle per name does not see.
func LoginsPerClient() Limit { return Limit{"logins-client", 60, 60, time.Minute} }

// ChecksPerClient bounds questions for existing accounts.
func ChecksPerClient() Limit { return Limit{"checks-client", 30, 30, time.Minute} }

// RefreshesPerClient bounds token refreshes; an office comes back at once
// after an outage.
func RefreshesPerClient() Limit { return Limit{"refreshes-client", 600, 600, time.Minute} }
