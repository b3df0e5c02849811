// Package verify keeps mailed codes, limits and login throttles in Redis.
//
// A code is six random digits for one address: it lives [CodeLifetime], is
// used once, and dies after [CodeTries] wrong tries. Using it takes two steps,
// so that a registration that fails for another reason does not burn it: a
// claim names who uses it, a release gives it back, and the same claimant may
// claim again, which makes a request that is repeated elsewhere harmless.
//
// Limits bound how often something happens ([Redis.Allow]). The throttle makes
// password guesses wait ever longer and never locks anybody out
// ([Redis.Attempt]).
//
// Every operation is one script over one key, timed by the server's clock, so
// that any number of control planes agree. The content is disposable: losing
// it costs people a new code and forgives some guesses. While the server
// cannot be reached everything answers [proto.CodeNoCodes]: nobody gets past a
// limit because it cannot be counted.
package verify
