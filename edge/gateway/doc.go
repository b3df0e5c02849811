// Package gateway is the edge's HTTP side: the account endpoints, and whatever
// else is mounted on it. Success is status 200 with "error" 0; failure is
// application/problem+json with a stable "code" and a numeric "error", which
// people's clients know (problem.go lists them).
package gateway
