// Package mailsink is a mail server for clusters on one machine: it takes
// every mail by SMTP on a loopback port, delivers none and shows the last one
// of each address, with the code in it, to whoever may read the admin address.
package mailsink
