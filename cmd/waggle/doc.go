// Command waggle is all of Waggle in one program: the servers, the verbs of
// people who run them, and a terminal client for people who chat.
//
// main.go is the story; each group of verbs has a file of its own:
// servers.go, config.go, certs.go, operator.go and its lists, and for people
// login.go, send.go, tail.go, threads.go. What is printed stands in
// output.go, operatorjson.go and line.go; what the program exits with in
// exit.go.
package main
