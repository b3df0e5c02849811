package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// NewLive asks for a livestream.
type NewLive struct {
	Thread string // whose members may watch; it is announced there
	Title  string // at most 100 bytes
	Record bool   // a recording is sent to the thread when it ends
	// ClientID makes a repeated request one livestream; zero: CreateLive takes one.
	ClientID proto.ClientMsgID
}

// CreatedLive is a new livestream. Whoever has its stream key can publish it.
type CreatedLive struct {
	ID        string `json:"live_id"`
	StreamKey string `json:"stream_key"` // never to be had again
	RTSP      string `json:"rtsp"`       // where to publish, stream key included
	RTMP      string `json:"rtmp"`
	HLS       string `json:"hls"` // where to watch, with a ticket
}

// Live is what is known of a livestream.
type Live struct {
	ID        string    `json:"live_id"`
	Thread    string    `json:"thread"`
	Title     string    `json:"title"`
	Record    bool      `json:"record"`
	State     string    `json:"state"` // waiting, on, interrupted (its publisher may come back) or ended (it may start again)
	Viewers   int       `json:"viewers"`
	StartedAt time.Time `json:"started_at"` // zero: never
	EndedAt   time.Time `json:"ended_at"`
	Reason    string    `json:"reason"` // of the end
	Video     string    `json:"video"`  // as in "H.264 1280x720"
	Audio     string    `json:"audio"`
	Node      string    `json:"node"` // that carries it, or would now
	RTSP      string    `json:"rtsp"` // there, without stream key or ticket
	RTMP      string    `json:"rtmp"`
	HLS       string    `json:"hls"`
}

// LiveTicket lets the user begin to watch until it expires, a minute later.
type LiveTicket struct {
	Ticket    string    `json:"ticket"`
	ExpiresAt time.Time `json:"expires_at"`
	RTSP      string    `json:"rtsp"` // where to watch, ticket included
	RTMP      string    `json:"rtmp"`
	HLS       string    `json:"hls"`
}

// CreateLive makes a livestream and announces it in its thread.
//
// Errors: [proto.CodeNotMember], [proto.CodeNotFriends], [proto.CodeBlocked] as
// for a message; [proto.CodeTooMany] while the user has [proto.LivesMax] that
// are on.
func (f *Files) CreateLive(ctx context.Context, l NewLive) (CreatedLive, error) {
	if l.ClientID == (proto.ClientMsgID{}) {
		l.ClientID = proto.NewClientMsgID(time.Now())
	}
	raw, err := json.Marshal(map[string]any{"thread": l.Thread, "title": l.Title, "record": l.Record, "client_id": l.ClientID.String()})
	if err != nil {
		return CreatedLive{}, err
	}
	var out CreatedLive
	for a := f.attempts(); ; {
		err := f.createLiveOnce(ctx, a.server(), raw, &out)
		if err == nil {
			return out, nil
		}
		if err := a.wait(ctx, err); err != nil {
			return CreatedLive{}, err
		}
	}
}

func (f *Files) createLiveOnce(ctx context.Context, server string, raw []byte, out *CreatedLive) error {
	ctx, cancel := context.WithTimeout(ctx, filesStall)
	defer cancel()
	resp, err := f.once(ctx, server, fileCall{
		method: http.MethodPost, path: "/live", body: bytes.NewReader(raw), length: int64(len(raw)),
		header: map[string]string{"Content-Type": "application/json"},
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, filesReplyMax)).Decode(out)
}

// ShowLive tells what a livestream is doing, and where it is published now.
//
// Errors: [proto.CodeUnknownLive], also for one that may not be watched;
// [proto.CodeNotFriends].
func (f *Files) ShowLive(ctx context.Context, live string) (Live, error) {
	var out Live
	path, err := livePath(live, "")
	if err == nil {
		_, err = f.ask(ctx, fileCall{method: http.MethodGet, path: path}, &out)
	}
	return out, err
}

// LiveTicket asks for a ticket to watch a livestream.
//
// Errors: as of [Files.ShowLive].
func (f *Files) LiveTicket(ctx context.Context, live string) (LiveTicket, error) {
	var out LiveTicket
	path, err := livePath(live, "/ticket")
	if err == nil {
		_, err = f.ask(ctx, fileCall{method: http.MethodPost, path: path}, &out)
	}
	return out, err
}

// livePath is the address of a livestream, whose id is checked.
func livePath(live, below string) (string, error) {
	id, err := proto.ParseLiveID(live)
	if err != nil {
		return "", proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	return "/live/" + id.String() + below, nil
}
