package proto

import (
	"errors"
	"fmt"
	"time"
)

// Class says what the asker of a failed request should do.
type Class uint8

// The three classes.
const (
	// ClassGiveUp: repeating the same request gives the same answer.
	ClassGiveUp Class = iota
	// ClassRetryLater: repeat it after the time the error names.
	ClassRetryLater
	// ClassRetryElsewhere: the error names the newer route or host.
	ClassRetryElsewhere
)

// Code numbers an error on the wire. Codes are never reused.
type Code uint32

// The registry. 0 is success.
const (
	CodeOK Code = 0

	CodeBadFrame       Code = 1  // unknown or malformed frame
	CodeTooBig         Code = 2  // frame or text above its limit
	CodeBadVersion     Code = 3  // another protocol version
	CodeBadToken       Code = 4  // malformed, wrong signature, other audience
	CodeTokenExpired   Code = 5  // valid once
	CodeSessionEnded   Code = 6  // device ended or authority raised
	CodeDisplaced      Code = 7  // same account, newer login
	CodeNotMember      Code = 8  // the thread is not the caller's
	CodeUnknownUser    Code = 9  // no such user
	CodeBadRequest     Code = 10 // a field is wrong; the message says which
	CodeMessageTooOld  Code = 11 // client_msg_id outside 7 days … 1 hour
	CodeHelloTimeout   Code = 12 // no Hello in time
	CodeIdle           Code = 13 // no heartbeat in time
	CodeShuttingDown   Code = 14 // the edge drains; alternatives are named
	CodeLoggedOut      Code = 15 // as asked
	CodeWrongPassword  Code = 16 // or no such name
	CodeNameTaken      Code = 17
	CodeUnknownThread  Code = 18 // a thread that does not exist here
	CodeDuplicateHello Code = 19 // a second Hello
	CodeUnknownCell    Code = 20
	CodeRangeFull      Code = 21 // every id of the range is given
	CodeUnsupported    Code = 22 // rules or format too new for this binary
	CodeForbidden      Code = 23 // not allowed for this caller
	CodeCorrupt        Code = 24 // stored data failed its checksum

	CodeOverloaded   Code = 40 // a queue is full
	CodeAfterUnknown Code = 41 // the named previous send is not known yet
	CodeNotReady     Code = 42 // no leader or host just now
	CodeRateLimited  Code = 43
	CodeUnavailable  Code = 44 // something needed cannot be reached
	CodeDiskFull     Code = 45
	CodeTooManyConns Code = 46

	CodeStaleEpoch Code = 60 // the range's ownership is newer
	CodeStaleGrant Code = 61 // another host has been granted
	CodeNotHost    Code = 62 // not hosted here
	CodeNotLeader  Code = 63 // not led here
)

type codeInfo struct {
	name  string
	class Class
	retry time.Duration // the usual wait of ClassRetryLater
}

func (c Code) info() codeInfo {
	switch c {
	case CodeOK:
		return codeInfo{name: "ok"}
	case CodeBadFrame:
		return codeInfo{name: "bad_frame"}
	case CodeTooBig:
		return codeInfo{name: "too_big"}
	case CodeBadVersion:
		return codeInfo{name: "bad_version"}
	case CodeBadToken:
		return codeInfo{name: "bad_token"}
	case CodeTokenExpired:
		return codeInfo{name: "token_expired"}
	case CodeSessionEnded:
		return codeInfo{name: "session_ended"}
	case CodeDisplaced:
		return codeInfo{name: "displaced"}
	case CodeNotMember:
		return codeInfo{name: "not_member"}
	case CodeUnknownUser:
		return codeInfo{name: "unknown_user"}
	case CodeBadRequest:
		return codeInfo{name: "bad_request"}
	case CodeMessageTooOld:
		return codeInfo{name: "message_too_old"}
	case CodeHelloTimeout:
		return codeInfo{name: "hello_timeout"}
	case CodeIdle:
		return codeInfo{name: "idle"}
	case CodeShuttingDown:
		return codeInfo{name: "shutting_down"}
	case CodeLoggedOut:
		return codeInfo{name: "logged_out"}
	case CodeWrongPassword:
		return codeInfo{name: "wrong_password"}
	case CodeNameTaken:
		return codeInfo{name: "name_taken"}
	case CodeUnknownThread:
		return codeInfo{name: "unknown_thread"}
	case CodeDuplicateHello:
		return codeInfo{name: "duplicate_hello"}
	case CodeUnknownCell:
		return codeInfo{name: "unknown_cell"}
	case CodeRangeFull:
		return codeInfo{name: "range_full"}
	case CodeUnsupported:
		return codeInfo{name: "unsupported"}
	case CodeForbidden:
		return codeInfo{name: "forbidden"}
	case CodeCorrupt:
		return codeInfo{name: "corrupt"}
	case CodeOverloaded:
		return codeInfo{"overloaded", ClassRetryLater, 200 * time.Millisecond}
	case CodeAfterUnknown:
		return codeInfo{"after_unknown", ClassRetryLater, 50 * time.Millisecond}
	case CodeNotReady:
		return codeInfo{"not_ready", ClassRetryLater, 100 * time.Millisecond}
	case CodeRateLimited:
		return codeInfo{"rate_limited", ClassRetryLater, time.Second}
	case CodeUnavailable:
		return codeInfo{"unavailable", ClassRetryLater, 500 * time.Millisecond}
	case CodeDiskFull:
		return codeInfo{"disk_full", ClassRetryLater, 5 * time.Second}
	case CodeTooManyConns:
		return codeInfo{"too_many_connections", ClassRetryLater, 5 * time.Second}
	case CodeStaleEpoch:
		return codeInfo{"stale_epoch", ClassRetryElsewhere, 0}
	case CodeStaleGrant:
		return codeInfo{"stale_grant", ClassRetryElsewhere, 0}
	case CodeNotHost:
		return codeInfo{"not_host", ClassRetryElsewhere, 0}
	case CodeNotLeader:
		return codeInfo{"not_leader", ClassRetryElsewhere, 0}
	}
	return codeInfo{name: fmt.Sprintf("code_%d", uint32(c))}
}

// String is the code's stable name.
func (c Code) String() string { return c.info().name }

// Class says what to do about c.
func (c Code) Class() Class { return c.info().class }

// Error is an error of the registry: the only kind that crosses the wire.
type Error struct {
	Code    Code
	Message string        // names the thing and the way out
	Retry   time.Duration // ClassRetryLater: wait at least this long
}

// Errorf makes an Error whose Retry is the code's usual wait.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Retry: code.info().retry}
}

// Error implements error.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code.String()
	}
	return e.Message
}

// Is makes errors.Is compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// RetryMillis is Retry as it stands on the wire, at least 1 where the class
// is [ClassRetryLater].
func (e *Error) RetryMillis() uint32 {
	ms := uint32(e.Retry / time.Millisecond)
	if e.Code.Class() == ClassRetryLater {
		ms = max(ms, 1)
	}
	return ms
}

// CodeOf is the code of err: 0 for nil, [CodeUnavailable] for an error that
// is not of the registry (its outcome is unknown: ask again).
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeUnavailable
}

// AsError is err as an error of the registry.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Errorf(CodeUnavailable, "%v", err)
}

// FromWire rebuilds an error that came over a wire; nil for code 0.
func FromWire(code uint32, message string, retryMS uint32) error {
	if code == 0 {
		return nil
	}
	return &Error{Code: Code(code), Message: message, Retry: time.Duration(retryMS) * time.Millisecond}
}
