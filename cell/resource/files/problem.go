package files

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"

	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/proto"
)

// statusChecksumMismatch is tus's own.
const statusChecksumMismatch = 460

// problem is a failure as people's clients get it (RFC 9457), in the form of
// the edge's.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Error  int    `json:"error"` // the code's number in proto/errors.go
	Detail string `json:"detail"`
}

// asRegistry makes an error one of the registry.
func asRegistry(err error) *proto.Error {
	if _, damaged := errors.AsType[*seal.CorruptError](err); damaged {
		return proto.Errorf(proto.CodeCorrupt, "the stored file is damaged")
	}
	if errors.Is(err, syscall.ENOSPC) {
		return proto.Errorf(proto.CodeDiskFull, "the disk for files is full: try again later")
	}
	if e, ok := errors.AsType[*proto.Error](err); ok {
		return e
	}
	// What went wrong inside names folders and nodes: it is logged, not shown.
	return proto.Errorf(proto.CodeUnavailable, "the file cannot be reached just now: try again")
}

func statusOf(code proto.Code) int {
	switch code {
	case proto.CodeBadToken, proto.CodeTokenExpired, proto.CodeSessionEnded, proto.CodeDisplaced:
		return http.StatusUnauthorized
	case proto.CodeUnknownFile, proto.CodeUnknownUser, proto.CodeNotMember:
		return http.StatusNotFound
	case proto.CodeBadRequest:
		return http.StatusBadRequest
	case proto.CodeTooBig, proto.CodeOverQuota:
		return http.StatusRequestEntityTooLarge
	case proto.CodeForbidden:
		return http.StatusForbidden
	case proto.CodeRateLimited, proto.CodeOverloaded, proto.CodeTooMany:
		return http.StatusTooManyRequests
	case proto.CodeDiskFull:
		return http.StatusInsufficientStorage
	case proto.CodeCorrupt:
		return http.StatusInternalServerError
	}
	return http.StatusServiceUnavailable
}

func encodeProblem(err error) (problem, []byte, http.Header) {
	e := asRegistry(err)
	p := problem{Status: statusOf(e.Code), Code: e.Code.String(), Error: int(e.Code), Detail: e.Error()}
	p.Title = http.StatusText(p.Status)
	body, _ := json.Marshal(p)
	h := http.Header{"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"}}
	if e.Code.Class() == proto.ClassRetryLater {
		h.Set("Retry-After", strconv.FormatInt(int64((e.Retry+time.Second-1)/time.Second), 10))
	}
	return p, body, h
}

func writeProblem(w http.ResponseWriter, err error) {
	p, body, h := encodeProblem(err)
	for _, name := range []string{"Content-Length", "Content-Disposition", "Etag", "Last-Modified", "Accept-Ranges", "Content-Range"} {
		w.Header().Del(name)
	}
	for name, values := range h {
		w.Header()[name] = values
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// tusError is an error as tusd writes it.
func tusError(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[handler.Error](err); ok {
		return e
	}
	p, body, h := encodeProblem(err)
	e := handler.NewError(p.Code, p.Detail, p.Status)
	e.HTTPResponse.Body = string(body)
	for name := range h {
		e.HTTPResponse.Header[name] = h.Get(name)
	}
	return e
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v)
}
