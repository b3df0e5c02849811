package cellclient

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// LiveCheckMax bounds the sessions of HLS that one request checks.
const LiveCheckMax = 1000

// LiveCreated is what POST /live answers. The stream key is shown once.
type LiveCreated struct {
	Live      string `json:"live_id"`
	StreamKey string `json:"stream_key"`
	RTSP      string `json:"rtsp"` // where to publish, key included
	RTMP      string `json:"rtmp"`
	HLS       string `json:"hls"` // where to watch, with a ticket
}

// LiveShown is what GET /live/ID answers.
type LiveShown struct {
	Live      string `json:"live_id"`
	Thread    string `json:"thread"`
	Title     string `json:"title"`
	Record    bool   `json:"record"`
	State     string `json:"state"` // waiting, on, interrupted or ended
	Viewers   int    `json:"viewers"`
	StartedAt string `json:"started_at,omitempty"`
	EndedAt   string `json:"ended_at,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Video     string `json:"video,omitempty"`
	Audio     string `json:"audio,omitempty"`
	Node      string `json:"node"`
	RTSP      string `json:"rtsp"` // without key or ticket
	RTMP      string `json:"rtmp"`
	HLS       string `json:"hls"`
}

// LiveTicket is what POST /live/ID/ticket answers. The addresses have the ticket
// in them.
type LiveTicket struct {
	Ticket    string `json:"ticket"`
	ExpiresAt string `json:"expires_at"`
	RTSP      string `json:"rtsp"`
	RTMP      string `json:"rtmp"`
	HLS       string `json:"hls"`
}

// LiveAdmit is what an edge asks by POST /live/ID/admit.
type LiveAdmit struct {
	Ticket string `json:"ticket"`
}

// LiveAdmitted is the answer.
type LiveAdmitted struct {
	Session string `json:"session"`
	Viewer  string `json:"viewer"` // who counts once
	Node    string `json:"node"`   // to ask for media
	Run     uint64 `json:"run"`    // counts the starts: the files of another are others
}

// LiveCheck is what an edge asks by POST /live/ID/check.
type LiveCheck struct {
	Sessions []string `json:"sessions"`
	// Source, if not empty, is the edge, which has Viewers in all.
	Source  string `json:"source"`
	Viewers int    `json:"viewers"`
}

// LiveChecked is the answer.
type LiveChecked struct {
	Node     string        `json:"node"`
	Run      uint64        `json:"run"`
	Verdicts []LiveVerdict `json:"verdicts"` // one for each session
}

// LiveVerdict says whether a session counts: Code is empty, or the name of a
// code of the registry.
type LiveVerdict struct {
	Viewer string `json:"viewer,omitempty"`
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// Err is the verdict as an error of the registry.
func (v LiveVerdict) Err() error {
	if v.Code == "" {
		return nil
	}
	code, ok := proto.CodeNamed(v.Code)
	if !ok {
		code = proto.CodeUnavailable
	}
	return proto.Errorf(code, "%s", v.Detail)
}

// LiveStatus is the HTTP status of an error about livestreams. Whoever may not
// watch is answered 403, whatever the reason.
func LiveStatus(code proto.Code) int {
	switch code {
	case proto.CodeBadToken, proto.CodeTokenExpired, proto.CodeSessionEnded, proto.CodeDisplaced, proto.CodeLoggedOut:
		return http.StatusUnauthorized
	case proto.CodeBadTicket, proto.CodeForbidden, proto.CodeNotMember, proto.CodeNotFriends, proto.CodeBlocked, proto.CodeUnknownLive:
		return http.StatusForbidden
	case proto.CodeUnknownUser, proto.CodeUnknownFile:
		return http.StatusNotFound
	case proto.CodeBadRequest:
		return http.StatusBadRequest
	case proto.CodeTooBig:
		return http.StatusRequestEntityTooLarge
	case proto.CodeConflict:
		return http.StatusConflict
	case proto.CodeRateLimited, proto.CodeOverloaded, proto.CodeTooMany:
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// WriteLiveProblem answers why something about livestreams fails, as a problem
// (RFC 9457) in the form of the edge's.
func WriteLiveProblem(w http.ResponseWriter, err error) {
	e := proto.AsError(err)
	status := LiveStatus(e.Code)
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if e.Code.Class() == proto.ClassRetryLater {
		h.Set("Retry-After", strconv.FormatInt(int64((e.Retry+time.Second-1)/time.Second), 10))
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Code   string `json:"code"`
		Error  int    `json:"error"` // the code's number in proto/errors.go
		Detail string `json:"detail"`
	}{http.StatusText(status), status, e.Code.String(), int(e.Code), e.Error()})
}

// Ask makes a request of this node's own, for nobody, to a resource node. An
// answer that is no success is an error. The caller closes the body.
func (p *FilesProxy) Ask(ctx context.Context, node proto.NodeID, call LiveCall) (*http.Response, error) {
	n, err := p.node(node)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "https", Host: n.addr, Path: call.Path, RawQuery: call.Query}
	if p.clientTLS == nil {
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, call.Method, u.String(), bytes.NewReader(call.Body))
	if err != nil {
		return nil, err
	}
	resp, err := n.transport.RoundTrip(req)
	if err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "node %s, which has the livestream, does not answer: %s", node, cause(err))
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, liveRefusal(node, resp)
}

// LiveCall is a request of [FilesProxy.Ask].
type LiveCall struct {
	Method, Path, Query string
	Body                []byte
}

// liveRefusal reads an answer that is no success.
func liveRefusal(node proto.NodeID, resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var said struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(raw, &said) == nil {
		if code, ok := proto.CodeNamed(said.Code); ok {
			return proto.Errorf(code, "%s", said.Detail)
		}
	}
	if resp.StatusCode == http.StatusNotFound {
		return proto.Errorf(proto.CodeUnknownFile, "the livestream is not on just now, or this part of it is gone")
	}
	return proto.Errorf(proto.CodeUnavailable, "node %s answered with status %d", node, resp.StatusCode)
}
