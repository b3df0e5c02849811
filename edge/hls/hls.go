package hls

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
)

const (
	// RecheckDefault is how often sessions are checked again.
	RecheckDefault = 5 * time.Second
	// CacheBytesDefault is what is kept of all livestreams: a minute of some
	// twenty of 2 Mbit/s.
	CacheBytesDefault = 256 << 20

	// activeFor is how long somebody counts as a viewer after a request: above
	// the pause of a player between two playlists.
	activeFor = 15 * time.Second
	// forgetAfter is how long a session is remembered without a request. It may
	// come back: then a node is asked.
	forgetAfter = 2 * time.Minute
	// trustFor is how long a session goes on while no node can be asked.
	trustFor = time.Minute
	// askTimeout bounds a question about sessions, behind two of the node's own.
	askTimeout = 10 * time.Second
	// sessionsMax bounds the sessions of an edge, and requestsMax the requests
	// of one at once: a player has a few.
	sessionsMax = 100_000
	requestsMax = 16
	// stallTimeout ends an answer of which nothing moves for so long.
	stallTimeout = time.Minute
	// answerBytesMax bounds what a node answers about sessions.
	answerBytesMax = 4 << 20
	// atOnce bounds the livestreams that are asked about at once.
	atOnce = 16

	index    = "index.m3u8"
	paramMSN = "_HLS_msn"
)

// filePattern is what the media side calls its files.
var filePattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?$`) // never changed

// blockingParams are the parameters that a node understands.
var blockingParams = []string{paramMSN, "_HLS_part", "_HLS_skip"} // never changed

// Nodes asks resource nodes: a [cellclient.FilesProxy].
type Nodes interface {
	// Ask makes a request of the edge's own.
	Ask(ctx context.Context, node proto.NodeID, call cellclient.LiveCall) (*http.Response, error)
}

// Config is what a server works with. The zero values of the last two stand for
// the defaults.
type Config struct {
	Edge  proto.NodeID
	Nodes Nodes
	// NodeOf is a node of the cell of a livestream's owner.
	NodeOf     func(context.Context, proto.LiveID) (proto.NodeID, error)
	Log        *slog.Logger // nil: none
	Recheck    time.Duration
	CacheBytes int
}

// Server serves viewers. It must run.
type Server struct {
	cfg   Config
	log   *slog.Logger
	cache *cache

	mu       sync.Mutex // guards the fields below
	streams  map[proto.LiveID]*stream
	sessions int
}

// stream is a livestream that somebody watches here.
type stream struct {
	node     proto.NodeID // that carries it, as far as known
	run      uint64       // counts its starts: the files of another are others
	sessions map[string]*viewer
	tickets  map[string]*ticket
}

// ticket is one that was shown here: a player may ask for its playlist again.
type ticket struct {
	done    chan struct{} // closed when the fields below are set
	session string
	err     error
	seen    time.Time
}

// viewer is one session.
type viewer struct {
	name      string // of the viewer, once known: sessions of one ticket are one
	seen      time.Time
	confirmed time.Time // a node said that it counts; zero: none was asked yet
	refused   error
	requests  int
}

// New makes a server. It starts nothing.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Recheck == 0 {
		cfg.Recheck = RecheckDefault
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = CacheBytesDefault
	}
	s := &Server{cfg: cfg, log: cfg.Log, streams: map[proto.LiveID]*stream{}}
	s.cache = newCache(cfg.CacheBytes, s.fetch)
	return s
}

// Run checks sessions until ctx ends, and returns after the last request to a
// node.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Recheck)
	defer tick.Stop()
	defer s.cache.close()
	for {
		select {
		case <-tick.C:
			s.recheck(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// ServeHTTP implements [http.Handler], for /live/{id}/{file...}.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, err := proto.ParseLiveID(r.PathValue("id"))
	if err != nil {
		refuse(w, proto.Errorf(proto.CodeUnknownLive, "%v", err))
		return
	}
	a := splitSession(r.PathValue("file"))
	if !filePattern.MatchString(a.file) {
		refuse(w, proto.Errorf(proto.CodeUnknownLive, "a livestream has no such file"))
		return
	}
	if !a.below {
		if a.session, err = s.begin(r.Context(), id, a.file, r.URL.Query().Get("ticket")); err != nil {
			refuse(w, err)
			return
		}
	}
	end, err := s.enter(r.Context(), id, a.session)
	if err != nil {
		refuse(w, err)
		return
	}
	defer end()
	o, err := s.cache.get(r.Context(), keyOf(id, a.file, r.URL.Query()))
	if err != nil {
		refuse(w, err)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(stallTimeout)) // best effort: not every connection has deadlines
	defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }()
	give(w, r, o, a)
}

// give writes an object.
func give(w http.ResponseWriter, r *http.Request, o *object, a asked) {
	h := w.Header()
	if o.contentType != "" {
		h.Set("Content-Type", o.contentType)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	body := o.body
	if strings.HasSuffix(a.file, ".m3u8") {
		h.Set("Cache-Control", "no-store")
		if !a.below {
			body = withSession(body, a.session)
		}
	} else {
		h.Set("Cache-Control", "private, max-age=60")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// refuse answers why nothing comes; who may not watch gets 403, whatever the
// reason.
func refuse(w http.ResponseWriter, err error) {
	if proto.CodeOf(err).Class() == proto.ClassGiveUp {
		err = forbidden(err)
	}
	cellclient.WriteLiveProblem(w, err)
}

// asked is what an address below a livestream's asks for.
type asked struct {
	file    string
	session string
	below   bool // the session stands in the address
}

// splitSession takes a session from the beginning of a path.
func splitSession(path string) asked {
	rest, ok := strings.CutPrefix(path, "s/")
	if !ok {
		return asked{file: path}
	}
	session, file, _ := strings.Cut(rest, "/")
	return asked{file: file, session: session, below: true}
}

// keyOf is the address of a file at its node, with what the node understands of
// a query.
func keyOf(id proto.LiveID, file string, q url.Values) string {
	key := "/live/" + id.String() + "/" + file
	kept := url.Values{}
	for _, name := range blockingParams {
		if v := q.Get(name); v != "" && len(v) <= 20 && strings.HasSuffix(file, ".m3u8") {
			kept.Set(name, v)
		}
	}
	if len(kept) > 0 {
		key += "?" + kept.Encode()
	}
	return key
}

// uriAttribute is an address inside a tag of a playlist.
var uriAttribute = regexp.MustCompile(`URI="([^"]*)"`) // never changed

// withSession puts the session before the addresses of a playlist, which are
// relative to it.
func withSession(playlist []byte, session string) []byte {
	prefix := "s/" + session + "/"
	under := func(uri string) string {
		if uri == "" || strings.Contains(uri, ":") || strings.HasPrefix(uri, "/") {
			return uri
		}
		return prefix + uri
	}
	lines := strings.Split(string(playlist), "\n")
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "#"):
			lines[i] = uriAttribute.ReplaceAllStringFunc(line, func(m string) string {
				return `URI="` + under(m[len(`URI="`):len(m)-1]) + `"`
			})
		case strings.TrimSpace(line) != "":
			lines[i] = under(line)
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

// fetch asks the node that carries a livestream for a file.
func (s *Server) fetch(ctx context.Context, key string) (*http.Response, error) {
	path, query, _ := strings.Cut(key, "?")
	text, _, _ := strings.Cut(strings.TrimPrefix(path, "/live/"), "/")
	id, err := proto.ParseLiveID(text)
	if err != nil {
		return nil, err
	}
	node, err := s.nodeOf(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.cfg.Nodes.Ask(ctx, node, cellclient.LiveCall{Method: http.MethodGet, Path: path, Query: query})
}

func (s *Server) nodeOf(ctx context.Context, id proto.LiveID) (proto.NodeID, error) {
	s.mu.Lock()
	st := s.streams[id]
	var node proto.NodeID
	if st != nil {
		node = st.node
	}
	s.mu.Unlock()
	if node != "" {
		return node, nil
	}
	return s.cfg.NodeOf(ctx, id)
}

// ask asks a node about sessions: first the one that carries the livestream,
// and if that does not answer one of its owner's cell.
func (s *Server) ask(ctx context.Context, id proto.LiveID, what string, body, out any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	call := cellclient.LiveCall{Method: http.MethodPost, Path: "/live/" + id.String() + "/" + what, Body: raw}
	node, err := s.nodeOf(ctx, id)
	if err != nil {
		return err
	}
	resp, err := s.cfg.Nodes.Ask(ctx, node, call)
	if err != nil && proto.CodeOf(err) == proto.CodeUnavailable {
		if other, e := s.cfg.NodeOf(ctx, id); e == nil && other != node {
			resp, err = s.cfg.Nodes.Ask(ctx, other, call)
		}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerBytesMax)).Decode(out); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "the node's answer cannot be read")
	}
	return nil
}
