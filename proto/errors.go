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

	CodeWrongCode  Code = 25 // no mailed code, a wrong one, or one used up
	CodeBlocked    Code = 26 // one of the two has blocked the other
	CodeNotFriends Code = 27 // only friends may do this
	CodeNoRequest  Code = 28 // there is no request to answer
	CodeWrongTOTP  Code = 29 // the second factor is wrong
	CodeTooMany    Code = 30 // a limit on how many there may be is reached
	CodeNeedTOTP   Code = 31 // a second factor is needed

	CodeBadTicket Code = 34 // of another livestream, expired, or none of ours

	CodeStaleVersion Code = 38 // the range's replicas have changed since this was planned
	CodeConflict     Code = 39 // the state does not allow it
	CodeUnknownLive  Code = 35 // no such livestream, or not the caller's to watch
	CodeUnknownFile  Code = 36 // no such file, or not the caller's to read
	CodeOverQuota    Code = 37 // the user's files would take more than he may have

	CodeOverloaded   Code = 40 // a queue is full
	CodeAfterUnknown Code = 41 // the named previous send is not known yet
	CodeNotReady     Code = 42 // no leader or host just now
	CodeRateLimited  Code = 43
	CodeUnavailable  Code = 44 // something needed cannot be reached
	CodeDiskFull     Code = 45
	CodeTooManyConns Code = 46
	CodeNoCodes      Code = 47 // mailed codes and limits cannot be reached
	CodeDisconnected Code = 48 // an operator closed the connection

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

// codes describes every code of the registry; it is never changed.
var codes = map[Code]codeInfo{
	CodeOK:             {name: "ok"},
	CodeBadFrame:       {name: "bad_frame"},
	CodeTooBig:         {name: "too_big"},
	CodeBadVersion:     {name: "bad_version"},
	CodeBadToken:       {name: "bad_token"},
	CodeTokenExpired:   {name: "token_expired"},
	CodeSessionEnded:   {name: "session_ended"},
	CodeDisplaced:      {name: "displaced"},
	CodeNotMember:      {name: "not_member"},
	CodeUnknownUser:    {name: "unknown_user"},
	CodeBadRequest:     {name: "bad_request"},
	CodeMessageTooOld:  {name: "message_too_old"},
	CodeHelloTimeout:   {name: "hello_timeout"},
	CodeIdle:           {name: "idle"},
	CodeShuttingDown:   {name: "shutting_down"},
	CodeLoggedOut:      {name: "logged_out"},
	CodeWrongPassword:  {name: "wrong_password"},
	CodeNameTaken:      {name: "name_taken"},
	CodeUnknownThread:  {name: "unknown_thread"},
	CodeDuplicateHello: {name: "duplicate_hello"},
	CodeUnknownCell:    {name: "unknown_cell"},
	CodeRangeFull:      {name: "range_full"},
	CodeUnsupported:    {name: "unsupported"},
	CodeForbidden:      {name: "forbidden"},
	CodeCorrupt:        {name: "corrupt"},
	CodeWrongCode:      {name: "wrong_code"},
	CodeBlocked:        {name: "blocked"},
	CodeNotFriends:     {name: "not_friends"},
	CodeNoRequest:      {name: "no_request"},
	CodeWrongTOTP:      {name: "wrong_totp"},
	CodeTooMany:        {name: "too_many"},
	CodeNeedTOTP:       {name: "totp_required"},
	CodeStaleVersion:   {name: "stale_version"},
	CodeConflict:       {name: "conflict"},
	CodeUnknownLive:    {name: "unknown_live"},
	CodeBadTicket:      {name: "bad_ticket"},
	CodeUnknownFile:    {name: "unknown_file"},
	CodeOverQuota:      {name: "over_quota"},
	CodeOverloaded:     {name: "overloaded", class: ClassRetryLater, retry: 200 * time.Millisecond},
	CodeAfterUnknown:   {name: "after_unknown", class: ClassRetryLater, retry: 50 * time.Millisecond},
	CodeNotReady:       {name: "not_ready", class: ClassRetryLater, retry: 100 * time.Millisecond},
	CodeRateLimited:    {name: "rate_limited", class: ClassRetryLater, retry: time.Second},
	CodeUnavailable:    {name: "unavailable", class: ClassRetryLater, retry: 500 * time.Millisecond},
	CodeDiskFull:       {name: "disk_full", class: ClassRetryLater, retry: 5 * time.Second},
	CodeTooManyConns:   {name: "too_many_connections", class: ClassRetryLater, retry: 5 * time.Second},
	CodeNoCodes:        {name: "codes_unavailable", class: ClassRetryLater, retry: time.Second},
	CodeDisconnected:   {name: "disconnected", class: ClassRetryLater, retry: time.Second},
	CodeStaleEpoch:     {name: "stale_epoch", class: ClassRetryElsewhere},
	CodeStaleGrant:     {name: "stale_grant", class: ClassRetryElsewhere},
	CodeNotHost:        {name: "not_host", class: ClassRetryElsewhere},
	CodeNotLeader:      {name: "not_leader", class: ClassRetryElsewhere},
}

func (c Code) info() codeInfo {
	if info, ok := codes[c]; ok {
		return info
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

// CodeNamed finds a code by its stable name.
func CodeNamed(name string) (Code, bool) {
	for code, info := range codes {
		if info.name == name {
			return code, true
		}
	}
	return 0, false
}
