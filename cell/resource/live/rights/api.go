package rights

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/waggle-im/waggle/cell/resource/live"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// bodyBytesMax bounds the body of a request: [cellclient.LiveCheckMax] sessions.
const bodyBytesMax = cellclient.LiveCheckMax * (signedBytesMax + 16)

// Media is the media side: a [live.Service].
type Media interface {
	// HLS serves /live/ID/index.m3u8 and what lies below it.
	HLS() http.Handler
	// SetHLSViewers tells how many watch through an edge.
	SetHLSViewers(id proto.LiveID, source string, n int)
}

// Handler serves what edges ask. Who they are must have been checked: what they
// say of the caller is believed.
func (s *Service) Handler(media Media) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /live", answer(s.create))
	mux.HandleFunc("GET /live/{id}", answer(s.show))
	mux.HandleFunc("POST /live/{id}/ticket", answer(s.ticket))
	mux.HandleFunc("POST /live/{id}/admit", answer(s.admit))
	mux.HandleFunc("POST /live/{id}/check", answer(func(r *http.Request) (any, error) { return s.check(r, media) }))
	mux.Handle("GET /live/{id}/{file...}", media.HLS())
	return mux
}

// answer writes what do gives as JSON, or why it fails.
func answer(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := do(r)
		if err != nil {
			cellclient.WriteLiveProblem(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(v)
	}
}

func readBody(r *http.Request, v any) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, bodyBytesMax+1))
	if err == nil && len(raw) > bodyBytesMax {
		return proto.Errorf(proto.CodeTooBig, "the body has more than %d bytes", bodyBytesMax)
	}
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return proto.Errorf(proto.CodeBadRequest, "the body is not the JSON object this path expects: %v", err)
	}
	return nil
}

// asker is who calls, with a login that counts and within his limit.
func (s *Service) asker(r *http.Request) (cellclient.Caller, error) {
	c, known := cellclient.CallerOf(r.Header)
	if known {
		if err := s.limits.take(c.User); err != nil {
			return c, err
		}
	}
	return s.callerOf(r.Context(), c, known)
}

type createBody struct {
	Thread   string `json:"thread"`
	Title    string `json:"title"`
	Record   bool   `json:"record"`
	ClientID string `json:"client_id"` // a UUIDv7; without one a repeated request makes another livestream
}

// create makes a livestream and announces it.
func (s *Service) create(r *http.Request) (any, error) {
	caller, err := s.asker(r)
	if err != nil {
		return nil, err
	}
	var body createBody
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	client := proto.NewClientMsgID(s.now())
	if body.ClientID != "" {
		parsed, err := uuid.Parse(body.ClientID)
		if err != nil {
			return nil, proto.Errorf(proto.CodeBadRequest, "client_id is not a UUID")
		}
		client = proto.ClientMsgID(parsed)
	}
	if err := s.member(r.Context(), body.Thread, caller.User); err != nil {
		return nil, err
	}
	var secret, ticketKey [32]byte
	_, _ = rand.Read(secret[:])
	_, _ = rand.Read(ticketKey[:])
	key := base64.RawURLEncoding.EncodeToString(secret[:])
	hash := sha256.Sum256([]byte(key))
	reply, err := s.ask(r.Context(), caller.User, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_CreateLive{CreateLive: &cellpb.CreateLive{
		User: uint64(caller.User), ClientId: client[:], Thread: body.Thread, Title: body.Title, Record: body.Record,
		KeyHash: hash[:], TicketKey: ticketKey[:],
	}}})
	if err != nil {
		return nil, err
	}
	id := proto.LiveID{Owner: caller.User, Number: reply.GetResult().GetLive().GetNumber()}
	if err := s.announce(r.Context(), id, client, reply.GetResult().GetLive().GetLive()); err != nil {
		return nil, err
	}
	rtsp, rtmp := s.publishAddrs(s.cfg.Node, id, key)
	return cellclient.LiveCreated{
		Live: id.String(), StreamKey: key, RTSP: rtsp, RTMP: rtmp, HLS: hlsAddr(r, id),
	}, nil
}

// announce writes the message about a livestream. If it is refused there is no
// livestream.
func (s *Service) announce(ctx context.Context, id proto.LiveID, msg proto.ClientMsgID, row *cellpb.StoredLive) error {
	_, err := s.ask(ctx, id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_PostMessage{PostMessage: &cellpb.PostMessage{
		User: uint64(id.Owner), Thread: row.Thread, ClientMsgId: msg[:],
		Live: &clientpb.LiveMessage{Live: id.String(), Title: row.Title, Record: row.Record},
	}}})
	if err == nil || proto.CodeOf(err).Class() != proto.ClassGiveUp {
		return err // as yet unknown: the same request again finds out
	}
	_, removeErr := s.ask(context.WithoutCancel(ctx), id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_RemoveLive{
		RemoveLive: &cellpb.RemoveLive{User: uint64(id.Owner), Number: id.Number},
	}})
	if removeErr != nil {
		s.log.Warn("a livestream that could not be announced is left", "live", id.String(), "err", removeErr)
	}
	return err
}

// stateNames are the states as people read them.
var stateNames = map[cellpb.LiveState]string{ // never changed
	cellpb.LiveState_LIVE_STATE_WAITING: "waiting", cellpb.LiveState_LIVE_STATE_ON: "on",
	cellpb.LiveState_LIVE_STATE_INTERRUPTED: "interrupted", cellpb.LiveState_LIVE_STATE_ENDED: "ended",
}

// watched finds a livestream that the caller may watch.
func (s *Service) watched(r *http.Request) (caller cellclient.Caller, id proto.LiveID, row *cellpb.StoredLive, err error) {
	if caller, err = s.asker(r); err != nil {
		return
	}
	if id, err = proto.ParseLiveID(r.PathValue("id")); err != nil {
		err = proto.Errorf(proto.CodeUnknownLive, "%v", err)
		return
	}
	if row, err = s.row(r.Context(), id); err == nil {
		err = s.mayWatch(r.Context(), id, row, caller.User)
	}
	return
}

func (s *Service) show(r *http.Request) (any, error) {
	_, id, row, err := s.watched(r)
	if err != nil {
		return nil, err
	}
	node := s.place(row)
	out := cellclient.LiveShown{
		Live: id.String(), Thread: row.Thread, Title: row.Title, Record: row.Record, State: stateNames[row.State],
		Viewers: int(row.Viewers), Reason: row.Reason, Video: row.Video, Audio: row.Audio, Node: string(node), HLS: hlsAddr(r, id),
	}
	out.RTSP, out.RTMP = s.publishAddrs(node, id, "")
	if row.StartedMs != 0 {
		out.StartedAt = stamp(row.StartedMs)
	}
	if row.EndedMs != 0 {
		out.EndedAt = stamp(row.EndedMs)
	}
	return out, nil
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano) }

// ticket lets the caller begin to watch.
func (s *Service) ticket(r *http.Request) (any, error) {
	caller, id, row, err := s.watched(r)
	if err != nil {
		return nil, err
	}
	expires := s.now().Add(proto.LiveTicketLifetime)
	text := sign(row, claims{
		Kind: kindTicket, Live: id.String(), Thread: row.Thread, Login: caller, Viewer: newViewer(), Expires: expires.UnixMilli(),
	})
	out := cellclient.LiveTicket{Ticket: text, ExpiresAt: stamp(expires.UnixMilli()), HLS: hlsAddr(r, id) + "?ticket=" + text}
	if rtsp, rtmp, ok := s.deps.Directory.LiveAddrs(s.place(row)); ok {
		out.RTSP, out.RTMP = watchURLs(rtsp, rtmp, id, text)
	}
	return out, nil
}

// place is the node at which a livestream is, or should be published: the one
// that carries it, else one of its owner's cell, which edges have asked.
func (s *Service) place(row *cellpb.StoredLive) proto.NodeID {
	if node := proto.NodeID(row.Node); isOn(row) && s.alive(node, proto.CellID(row.Cell)) {
		return node
	}
	return s.cfg.Node
}

// publishAddrs are where to publish; without key they lack it.
func (s *Service) publishAddrs(node proto.NodeID, id proto.LiveID, key string) (rtsp, rtmp string) {
	rtspAddr, rtmpAddr, ok := s.deps.Directory.LiveAddrs(node)
	if !ok {
		return "", ""
	}
	return publishURLs(rtspAddr, rtmpAddr, id, key)
}

// hlsAddr is where the client that asks finds playlists: at its edge.
func hlsAddr(r *http.Request, id proto.LiveID) string {
	scheme := "https"
	if strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "http") {
		scheme = "http"
	}
	u := url.URL{Scheme: scheme, Host: r.Host, Path: "/live/" + id.String() + "/index.m3u8"}
	return u.String()
}

// admit makes a session of a ticket.
func (s *Service) admit(r *http.Request) (any, error) {
	id, row, err := s.named(r)
	if err != nil {
		return nil, err
	}
	var body cellclient.LiveAdmit
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	c, err := s.open(row, id, kindTicket, body.Ticket)
	if err != nil {
		return nil, err
	}
	if err := s.MayStay(r.Context(), live.Viewer{Live: id, User: c.Login.User, Thread: row.Thread, Login: c.Login}); err != nil {
		return nil, err
	}
	c.Kind, c.Expires = kindSession, s.now().Add(sessionLifetime).UnixMilli()
	return cellclient.LiveAdmitted{Session: sign(row, c), Viewer: c.Viewer, Node: string(s.carrier(row)), Run: row.Run}, nil
}

// named is the livestream of a request that an edge makes for itself.
func (s *Service) named(r *http.Request) (proto.LiveID, *cellpb.StoredLive, error) {
	if _, person := cellclient.CallerOf(r.Header); person {
		return proto.LiveID{}, nil, proto.Errorf(proto.CodeForbidden, "only edges ask this")
	}
	id, err := proto.ParseLiveID(r.PathValue("id"))
	if err != nil {
		return id, nil, proto.Errorf(proto.CodeUnknownLive, "%v", err)
	}
	row, err := s.row(r.Context(), id)
	return id, row, err
}

// carrier is the node to ask for media.
func (s *Service) carrier(row *cellpb.StoredLive) proto.NodeID {
	if row.Node != "" {
		return proto.NodeID(row.Node)
	}
	return s.cfg.Node
}

// check tells an edge which of its sessions still count, and the media side how
// many watch there.
func (s *Service) check(r *http.Request, media Media) (any, error) {
	id, row, err := s.named(r)
	if err != nil {
		return nil, err
	}
	var body cellclient.LiveCheck
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	if len(body.Sessions) > cellclient.LiveCheckMax {
		return nil, proto.Errorf(proto.CodeTooMany, "at most %d sessions are checked at once", cellclient.LiveCheckMax)
	}
	out := cellclient.LiveChecked{Node: string(s.carrier(row)), Run: row.Run, Verdicts: make([]cellclient.LiveVerdict, len(body.Sessions))}
	each(len(body.Sessions), func(i int) {
		out.Verdicts[i] = s.judge(r.Context(), id, row, body.Sessions[i])
	})
	if body.Source != "" && s.carrier(row) == s.cfg.Node {
		media.SetHLSViewers(id, body.Source, body.Viewers)
	}
	return out, nil
}

func (s *Service) judge(ctx context.Context, id proto.LiveID, row *cellpb.StoredLive, session string) cellclient.LiveVerdict {
	c, err := s.open(row, id, kindSession, session)
	if err == nil {
		err = s.MayStay(ctx, live.Viewer{Live: id, User: c.Login.User, Thread: row.Thread, Login: c.Login})
	}
	if err == nil {
		return cellclient.LiveVerdict{Viewer: c.Viewer}
	}
	e := proto.AsError(err)
	return cellclient.LiveVerdict{Code: e.Code.String(), Detail: e.Error()}
}

// each does n things, some at once.
func each(n int, do func(int)) {
	const atOnce = 32 // questions to ranges: batched by the relay
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	wg.Wait()
}
