// Package testservers starts private MariaDB and Redis servers for tests: on
// free loopback ports ([FreeAddr]), in temporary directories, ended with the test. It never
// uses a server it did not start.
//
// A program that is missing fails the test when CI=true or
// TEST_SERVERS=1, and otherwise skips it, naming the Debian package.
package testservers
