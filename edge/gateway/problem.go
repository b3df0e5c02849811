package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
)

// The numbers of the "error" field, as people's clients know them.
const (
	errorBadJSON          = 1
	errorNoEdge           = 10
	errorRedis            = 12 // codes and limits, or mail, cannot be reached
	errorWrongCode        = 13 // or none
	errorUnavailable      = 14 // the accounts or the user's range cannot be reached
	errorBadField         = 15
	errorNoAccount        = 16
	errorWrongCredentials = 17
	errorTaken            = 43 // the name or the address
	errorTooMany          = 44
)

// What the gateway refuses by itself.
var (
	errNoEdge = errors.New("no edge is alive; try again")
	errNoCode = proto.Errorf(proto.CodeWrongCode, `the field "cpatcha" is missing: it is the code that /get_verification mails`)
)

// Problem is a failure as people's clients get it (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`   // stable name
	Error  int    `json:"error"`  // numeric, as in the predecessor
	Detail string `json:"detail"` // names the thing and the way out

	retry time.Duration // for Retry-After; 0: none
}

func (p Problem) write(w http.ResponseWriter) {
	if p.retry > 0 {
		seconds := int64((p.retry + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	p.Title = http.StatusText(p.Status)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// problemOf is an error of the registry as a [Problem]; any other is
// "unavailable".
func problemOf(err error) Problem {
	if errors.Is(err, errNoEdge) {
		return Problem{Status: http.StatusServiceUnavailable, Code: "no_edge", Error: errorNoEdge, Detail: err.Error(), retry: time.Second}
	}
	e := proto.AsError(controlclient.FromStatus(err))
	p := Problem{Status: http.StatusServiceUnavailable, Code: e.Code.String(), Error: errorUnavailable, Detail: e.Error(), retry: e.Retry}
	switch e.Code {
	case proto.CodeNoCodes:
		p.Error = errorRedis
	case proto.CodeWrongCode:
		p.Status, p.Error = http.StatusForbidden, errorWrongCode
	case proto.CodeNameTaken:
		p.Status, p.Error = http.StatusConflict, errorTaken
	case proto.CodeBadToken, proto.CodeTokenExpired, proto.CodeSessionEnded, proto.CodeDisplaced,
		proto.CodeNeedTOTP, proto.CodeWrongTOTP:
		p.Status, p.Error = http.StatusUnauthorized, errorWrongCredentials
	case proto.CodeWrongPassword:
		p.Status, p.Error = http.StatusUnauthorized, errorWrongCredentials
	case proto.CodeUnknownUser:
		p.Status, p.Error = http.StatusNotFound, errorNoAccount
	case proto.CodeBadRequest, proto.CodeTooBig:
		p.Status, p.Error = http.StatusBadRequest, errorBadField
	case proto.CodeRateLimited, proto.CodeOverloaded, proto.CodeTooManyConns:
		p.Status, p.Error = http.StatusTooManyRequests, errorTooMany
	case proto.CodeForbidden:
		p.Status, p.Error = http.StatusForbidden, errorWrongCredentials
	}
	return p
}
