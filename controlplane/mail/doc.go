// Package mail sends mail by SMTP, in plain text and HTML. Sending is handed
// to a bounded queue: whoever asks does not wait for the mail server, failures
// are retried with growing pauses until the mail is of no use any more, and
// reported in log and metrics, never fatal.
package mail
