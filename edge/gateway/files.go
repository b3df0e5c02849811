package gateway

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
)

const (
	// stallTimeout ends a transfer of whose body nothing moved for so long.
	stallTimeout = time.Minute
	// keyPatience is how long a token waits for a signing key that a control
	// plane may have published a moment ago.
	keyPatience = time.Second
	keyRetry    = 20 * time.Millisecond
)

// Files passes requests about files on to the resource nodes of the cell that
// can serve them. It checks the token and tells the node who calls; everything
// else is decided there. It keeps no body.
//
//	/uploads      POST                       to a node of the caller's cell
//	/uploads/ID   HEAD PATCH DELETE          to the node that ID names
//	/files        GET                        to a node of the caller's cell
//	/files/ID…    GET HEAD DELETE POST       to a node of the owner's cell
//	/avatars      POST DELETE                to a node of the caller's cell
//	/avatars/ID   GET HEAD                   to a node of the owner's cell
type Files struct {
	Directory cellclient.FilesDirectory
	Proxy     *cellclient.FilesProxy
	Keys      token.Keys
	Gate      *giveway.Gate // contents wait there; nil: they do not
}

// Routes implements [Mount].
func (f *Files) Routes(mux *http.ServeMux) {
	for _, pattern := range []string{"/files", "/files/", "/uploads", "/uploads/", "/avatars", "/avatars/"} {
		mux.HandleFunc(pattern, f.serve)
	}
}

func (f *Files) serve(w http.ResponseWriter, r *http.Request) {
	caller, err := f.caller(r)
	if err != nil {
		writeFileProblem(w, err)
		return
	}
	node, err := f.node(r, caller)
	if err != nil {
		writeFileProblem(w, err)
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	moving := newMoving(w, r, f.Gate)
	defer moving.end()
	r.Body = moving.body
	f.Proxy.Forward(moving, r, cellclient.Forwarding{Node: node, Caller: caller, Scheme: scheme, Failed: writeFileProblem})
}

// caller reads the token; nil where a signed link stands instead, which the
// node checks that made it.
func (f *Files) caller(r *http.Request) (*cellclient.Caller, error) {
	raw := bearer(r)
	if raw == "" {
		if r.URL.Query().Get("link") != "" {
			return nil, nil
		}
		return nil, proto.Errorf(proto.CodeBadToken, `the header "Authorization: Bearer TOKEN" is missing: log in`)
	}
	deadline := time.Now().Add(keyPatience)
	for {
		claims, err := token.Verify(raw, f.Keys, time.Now())
		if errors.Is(err, token.ErrUnknownKey) && time.Now().Before(deadline) {
			select {
			case <-time.After(keyRetry):
				continue
			case <-r.Context().Done():
			}
		}
		if err != nil {
			return nil, err
		}
		return &cellclient.Caller{
			User: claims.User, Device: claims.Device, Session: claims.SessionNumber, Authority: claims.AuthorityVersion,
		}, nil
	}
}

// node finds the resource node that can serve a request.
func (f *Files) node(r *http.Request, caller *cellclient.Caller) (proto.NodeID, error) {
	first, rest, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	named, _, _ := strings.Cut(rest, "/")
	if first == "uploads" {
		if named == "" {
			// The parts of a file are joined where they lie.
			named = r.Header.Get("Upload-Concat")
		}
		if _, after, ok := strings.Cut(named, "~"); ok {
			return f.known(cutNode(after))
		}
		return f.near(r.Context(), caller)
	}
	if link := r.URL.Query().Get("link"); link != "" && caller == nil {
		node, _, _ := strings.Cut(link, "~")
		return f.known(node)
	}
	if named == "" {
		return f.near(r.Context(), caller)
	}
	id, err := proto.ParseFileID(named)
	if err != nil {
		return "", proto.Errorf(proto.CodeUnknownFile, "%v", err)
	}
	return f.of(r.Context(), id.Owner)
}

// cutNode is the name of a node at the beginning of s.
func cutNode(s string) string {
	if i := strings.IndexFunc(s, func(c rune) bool { return !strings.ContainsRune("._-", c) && !alphanumeric(c) }); i >= 0 {
		return s[:i]
	}
	return s
}

func alphanumeric(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// known is a node that an address names.
func (f *Files) known(name string) (proto.NodeID, error) {
	node := proto.NodeID(name)
	if _, ok := f.Directory.FilesAddr(node); !ok {
		return "", proto.Errorf(proto.CodeUnknownFile, "there is no such upload or link")
	}
	return node, nil
}

// near is a node of the caller's own cell.
func (f *Files) near(ctx context.Context, caller *cellclient.Caller) (proto.NodeID, error) {
	if caller == nil {
		return "", proto.Errorf(proto.CodeBadToken, `the header "Authorization: Bearer TOKEN" is missing: log in`)
	}
	return f.of(ctx, caller.User)
}

// of is a node of a user's cell, the same one as long as it lives: the parts
// of a file should come together.
func (f *Files) of(ctx context.Context, user proto.EntityID) (proto.NodeID, error) {
	route, ok := cellclient.AwaitRoute(ctx, f.Directory.Routes, user.Range())
	if !ok {
		return "", proto.Errorf(proto.CodeUnknownFile, "there is no user %s", user)
	}
	nodes := f.Directory.FilesNodes(route.Cell)
	if len(nodes) == 0 {
		return "", proto.Errorf(proto.CodeUnavailable, "no node of cell %s serves files just now", route.Cell)
	}
	weight := func(n proto.NodeID) uint64 { return xxhash.Sum64String(user.String() + "/" + string(n)) }
	return slices.MaxFunc(nodes, func(a, b proto.NodeID) int { return cmp.Compare(weight(a), weight(b)) }), nil
}

func writeFileProblem(w http.ResponseWriter, err error) {
	p := problemOf(err)
	if proto.CodeOf(err) == proto.CodeUnknownFile {
		p.Status, p.Error = http.StatusNotFound, errorNoAccount
	}
	p.write(w)
}

// moving ends a transfer that stands still, in either direction, so that slow
// peers hold a connection and two small buffers, and dead ones not even that.
type moving struct {
	http.ResponseWriter
	control *http.ResponseController
	body    io.ReadCloser
	gate    *giveway.Gate
	ctx     context.Context // of the request

	// The deadline last set. One is set anew when a second has passed, for each
	// costs HTTP/2 a message to its loop.
	writeBy time.Time

	mu     sync.Mutex // guards the fields below: the body is read beside the handler, and may be after it
	readBy time.Time
	ended  bool
}

// readUntil sets the deadline of reading, while there is a request.
func (m *moving) readUntil(by time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if step := by.Sub(m.readBy); m.ended || step >= 0 && step < time.Second {
		return
	}
	m.readBy = by
	_ = m.control.SetReadDeadline(by)
}

func newMoving(w http.ResponseWriter, r *http.Request, gate *giveway.Gate) *moving {
	m := &moving{ResponseWriter: w, control: http.NewResponseController(w), gate: gate, ctx: r.Context()}
	m.body = movingBody{ReadCloser: r.Body, m: m}
	return m
}

// Write implements [http.ResponseWriter]. Not every connection has deadlines:
// best effort.
func (m *moving) Write(p []byte) (int, error) {
	m.gate.Wait(m.ctx, len(p))
	if by := time.Now().Add(stallTimeout); by.Sub(m.writeBy) >= time.Second {
		m.writeBy = by
		_ = m.control.SetWriteDeadline(by)
	}
	return m.ResponseWriter.Write(p)
}

// Unwrap lets [http.ResponseController] find the connection.
func (m *moving) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// end takes the deadlines back: the connection serves other requests.
func (m *moving) end() {
	_ = m.control.SetWriteDeadline(time.Time{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	_ = m.control.SetReadDeadline(time.Time{})
}

type movingBody struct {
	io.ReadCloser
	m *moving
}

// Read implements [io.Reader].
func (b movingBody) Read(p []byte) (int, error) {
	b.m.readUntil(time.Now().Add(stallTimeout))
	n, err := b.ReadCloser.Read(p)
	b.m.gate.Wait(b.m.ctx, n)
	if errors.Is(err, io.EOF) {
		// From here on the node works, as long as it needs.
		b.m.readUntil(time.Time{})
	}
	return n, err
}
