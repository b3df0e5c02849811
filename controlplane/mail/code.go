package mail

import (
	"fmt"
	"time"
)

// Code is the mail that carries a verification code, 6 digits.
func Code(to, code string, lifetime time.Duration) Message {
	minutes := int(lifetime.Round(time.Minute) / time.Minute)
	const unasked = "If you did not ask for it, ignore this mail: without the code nothing happens."
	return Message{
		To: to, Subject: "Your Waggle code", Until: time.Now().Add(lifetime),
		Text: fmt.Sprintf("Your Waggle code is %s\n\nIt is valid for %d minutes and can be used once.\n%s\n", code, minutes, unasked),
		HTML: fmt.Sprintf("<p>Your Waggle code is</p><p style=\"font-size:1.6em;letter-spacing:.15em\"><b>%s</b></p>"+
			"<p>It is valid for %d minutes and can be used once.<br>%s</p>", code, minutes, unasked),
	}
}
