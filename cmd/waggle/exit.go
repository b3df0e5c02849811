package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
)

// What the program exits with.
const (
	statusDone     = 0
	statusFailed   = 1
	statusUsage    = 2 // wrong usage, or not confirmed
	statusRefused  = 3 // state does not allow it
	statusTimedOut = 4
)

// statusError is an error that decides the exit status.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &statusError{statusUsage, fmt.Errorf(format, args...)}
}

func refused(err error) error { return &statusError{statusRefused, err} }

func timedOut(err error) error { return &statusError{statusTimedOut, err} }

// statusOf is what to exit with after err.
func statusOf(err error) int {
	if err == nil {
		return statusDone
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	if errors.Is(err, devcluster.ErrRefused) {
		return statusRefused
	}
	switch proto.CodeOf(err) {
	case proto.CodeNameTaken, proto.CodeRangeFull, proto.CodeUnsupported, proto.CodeConflict, proto.CodeOverQuota:
		return statusRefused
	}
	if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		return statusTimedOut
	}
	return statusFailed
}

// oneLine puts a message of several lines on one.
func oneLine(s string) string {
	var parts []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}
