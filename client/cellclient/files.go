package cellclient

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/sharding"
)

const (
	// Windows of one transfer and of one connection between two nodes: what a
	// thousand slow readers can make us hold. One transfer of 128 KiB per
	// round trip is above 250 MB/s inside a data centre (0.5 ms); those of a
	// connection fit all its streams, so that a slow one delays no other.
	filesStreamWindowBytes = 128 << 10
	filesConnWindowBytes   = 64 << 20
	// filesCopyBytes is the buffer of one transfer that passes through.
	filesCopyBytes = 32 << 10
	// filesHeaderPatience is how long a node may take to answer a request it
	// has got whole: joining the parts of a file of 16 GiB reads and writes it
	// once.
	filesHeaderPatience = 10 * time.Minute
	filesDialTimeout    = 2 * time.Second

	// ArrivingFiles begins the addresses to which resource nodes send contents
	// whose owners have moved to another cell. Edges pass nothing on to them.
	ArrivingFiles = "/arriving/"

	callerPrefix = "Waggle-"
	callerHeader = callerPrefix + "Caller"
)

// FilesHTTP2 are the limits of HTTP/2 between nodes, for both sides.
func FilesHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxReceiveBufferPerStream: filesStreamWindowBytes, MaxReceiveBufferPerConnection: filesConnWindowBytes,
		MaxConcurrentStreams: filesConnWindowBytes / filesStreamWindowBytes,
		SendPingTimeout:      10 * time.Second, PingTimeout: 5 * time.Second,
	}
}

// FilesDirectory knows where files are served; it never waits.
type FilesDirectory interface {
	// Routes is the route map.
	Routes() *sharding.Map
	// FilesAddr is where a resource node serves files.
	FilesAddr(proto.NodeID) (addr string, ok bool)
	// FilesNodes are the resource nodes of a cell that are believed alive.
	FilesNodes(proto.CellID) []proto.NodeID
}

// Caller is who sends a request about files, as his token says. Only nodes
// say it to each other, in a header.
type Caller struct {
	User      proto.EntityID `json:"user"`
	Device    string         `json:"device"`
	Session   uint64         `json:"session"`
	Authority uint64         `json:"authority"`
}

// SetCaller writes who calls into a header, in place of what stood there; nil:
// nobody is known.
func SetCaller(h http.Header, c *Caller) {
	for name := range h {
		if strings.HasPrefix(name, callerPrefix) {
			delete(h, name)
		}
	}
	if c == nil {
		return
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return // a struct of numbers and a text: cannot fail
	}
	h.Set(callerHeader, base64.RawURLEncoding.EncodeToString(raw))
}

// CallerOf reads what [SetCaller] wrote; false: nobody is known.
func CallerOf(h http.Header) (Caller, bool) {
	var c Caller
	raw, err := base64.RawURLEncoding.DecodeString(h.Get(callerHeader))
	if err != nil || json.Unmarshal(raw, &c) != nil || c.User == 0 {
		return Caller{}, false
	}
	return c, true
}

// FilesProxy passes HTTP requests on to resource nodes, without holding their
// bodies. Close ends its connections.
type FilesProxy struct {
	directory FilesDirectory
	clientTLS func(proto.NodeID) *tls.Config
	buffers   sync.Pool

	mu    sync.Mutex // guards the fields below
	nodes map[proto.NodeID]*filesNode
}

type filesNode struct {
	addr      string
	transport *http.Transport
}

// NewFilesProxy makes a proxy. clientTLS nil means no TLS, for tests.
func NewFilesProxy(directory FilesDirectory, clientTLS func(proto.NodeID) *tls.Config) *FilesProxy {
	return &FilesProxy{
		directory: directory, clientTLS: clientTLS, nodes: map[proto.NodeID]*filesNode{},
		buffers: sync.Pool{New: func() any { b := make([]byte, filesCopyBytes); return &b }},
	}
}

// Get implements [httputil.BufferPool].
func (p *FilesProxy) Get() []byte { return *p.buffers.Get().(*[]byte) }

// Put implements [httputil.BufferPool].
func (p *FilesProxy) Put(b []byte) { p.buffers.Put(&b) }

// Close ends all connections. Requests under way fail.
func (p *FilesProxy) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.nodes {
		n.transport.CloseIdleConnections()
	}
	p.nodes = nil
}

func (p *FilesProxy) node(node proto.NodeID) (*filesNode, error) {
	addr, ok := p.directory.FilesAddr(node)
	if !ok {
		return nil, proto.Errorf(proto.CodeUnavailable, "node %s, which has it, is not known just now", node)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.nodes == nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "shutting down")
	}
	n := p.nodes[node]
	if n != nil && n.addr == addr {
		return n, nil
	}
	if n != nil {
		n.transport.CloseIdleConnections()
	}
	t := &http.Transport{
		ForceAttemptHTTP2: true, HTTP2: FilesHTTP2(), DisableCompression: true,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: filesHeaderPatience,
		TLSHandshakeTimeout: filesDialTimeout,
	}
	if p.clientTLS != nil {
		t.TLSClientConfig = p.clientTLS(node)
	}
	n = &filesNode{addr: addr, transport: t}
	p.nodes[node] = n
	return n, nil
}

// Forward passes r on to node and its answer back to w. caller is who asks, nil
// if nobody is known: what r says of that itself is dropped. failed answers
// when the node cannot be reached.
func (p *FilesProxy) Forward(w http.ResponseWriter, r *http.Request, to Forwarding) {
	n, err := p.node(to.Node)
	if err != nil {
		to.Failed(w, err)
		return
	}
	scheme := "https"
	if p.clientTLS == nil {
		scheme = "http"
	}
	proxy := httputil.ReverseProxy{
		Transport: n.transport, BufferPool: p, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: scheme, Host: n.addr})
			pr.Out.Host = pr.In.Host // stands in the addresses that are given out
			SetCaller(pr.Out.Header, to.Caller)
			pr.Out.Header.Set("Waggle-Hops", strconv.Itoa(to.Hops))
			pr.Out.Header.Del("Authorization")
			pr.Out.Header.Del("Forwarded")
			pr.Out.Header.Set("X-Forwarded-Proto", to.Scheme)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			to.Failed(w, proto.Errorf(proto.CodeUnavailable, "node %s, which has it, does not answer: %s", to.Node, cause(err)))
		},
	}
	proxy.ServeHTTP(w, r)
}

// SendFile sends the content of a file, of size bytes, to a resource node of
// the cell in which its owner lives. nil: it is stored there, and the owner's
// range says so.
func (p *FilesProxy) SendFile(ctx context.Context, to proto.NodeID, id proto.FileID, size int64, content io.Reader) error {
	n, err := p.node(to)
	if err != nil {
		return err
	}
	scheme := "https"
	if p.clientTLS == nil {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, scheme+"://"+n.addr+ArrivingFiles+id.String(), io.NopCloser(content))
	if err != nil {
		return err
	}
	req.ContentLength = size
	if size == 0 {
		req.Body = http.NoBody
	}
	resp, err := n.transport.RoundTrip(req)
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "node %s does not take file %s: %s", to, id, cause(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return proto.Errorf(proto.CodeUnavailable, "node %s does not take file %s: %d %s", to, id, resp.StatusCode, why)
	}
	return nil
}

// cause leaves addresses of nodes out of what clients see.
func cause(err error) string {
	if os.IsTimeout(err) {
		return "it takes too long"
	}
	return "the connection broke"
}

// Forwarding is where a request goes.
type Forwarding struct {
	Node   proto.NodeID
	Caller *Caller
	Scheme string // of the client's request: http or https
	Hops   int    // how often it was passed from one resource node to another
	Failed func(http.ResponseWriter, error)
}

// Hops tells how often a request was passed between resource nodes.
func Hops(h http.Header) int {
	n, err := strconv.Atoi(h.Get("Waggle-Hops"))
	if err != nil {
		return 0
	}
	return n
}
