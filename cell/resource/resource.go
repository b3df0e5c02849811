// Package resource assembles what a cell node with the resource role serves
// over HTTP/2 to edges and to other resource nodes: the files and the
// livestreams of people.
package resource

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-im/waggle/cell/resource/files"
	"github.com/waggle-im/waggle/cell/resource/live"
	"github.com/waggle-im/waggle/cell/resource/live/rights"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/proto"
)

const (
	// headerTimeout bounds the reading of a request's header: nodes are near.
	headerTimeout = 5 * time.Second
	// drainTimeout is what requests under way get at the end. An upload goes on
	// elsewhere or later from what is stored.
	drainTimeout = 2 * time.Second
)

// Directory knows where files and livestreams are; it never waits.
type Directory interface {
	cellclient.FilesDirectory
	// LiveAddrs is where a resource node takes RTSP and RTMP.
	LiveAddrs(proto.NodeID) (rtsp, rtmp string, ok bool)
}

// Config is what an operator sets of the resource side.
type Config struct {
	Files files.Config
	Live  live.Config   // Dir is set by New
	Who   rights.Config // who this node is
}

// LivePorts are where livestreams are published and watched; nil: not at all.
type LivePorts struct {
	RTSP, RTMP net.Listener
	RTP, RTCP  *net.UDPConn // of RTSP
}

// Close closes what no server has taken over.
func (p LivePorts) Close() error {
	var errs error
	closers := []io.Closer{}
	if p.RTSP != nil {
		closers = append(closers, p.RTSP)
	}
	if p.RTMP != nil {
		closers = append(closers, p.RTMP)
	}
	if p.RTP != nil {
		closers = append(closers, p.RTP, p.RTCP)
	}
	for _, c := range closers {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// Deps are what a server stands on.
type Deps struct {
	Listener  net.Listener                   // closed by Run
	Live      LivePorts                      // closed by Run
	ServerTLS *tls.Config                    // demands a node's certificate; nil: no TLS, for tests
	ClientTLS func(proto.NodeID) *tls.Config // towards other resource nodes
	Ranges    files.Ranges
	Directory Directory
	Gate      *giveway.Gate // where files give way to messages; nil: they do not
	Log       *slog.Logger
	Registry  prometheus.Registerer // nil: no metrics
}

// Server is the resource side of a node.
type Server struct {
	deps  Deps
	files *files.Service
	who   *rights.Service
	live  *live.Service
	proxy *cellclient.FilesProxy
	http  *http.Server
}

// New opens what is stored. It starts nothing; a server that is not run needs
// Close.
func New(cfg Config, deps Deps) (*Server, error) {
	s := &Server{deps: deps, proxy: cellclient.NewFilesProxy(deps.Directory, deps.ClientTLS)}
	var err error
	s.files, err = files.New(cfg.Files, files.Deps{Ranges: deps.Ranges, Directory: deps.Directory, Proxy: s.proxy, Gate: deps.Gate, Log: deps.Log})
	if err != nil {
		return nil, err
	}
	s.who, err = rights.New(cfg.Who, rights.Deps{
		Ranges: deps.Ranges, Directory: deps.Directory, Files: s.files, Log: deps.Log,
		End: func(id proto.LiveID, reason string) { s.live.End(id, reason) },
	})
	if err != nil {
		return nil, err
	}
	cfg.Live.Dir = filepath.Join(cfg.Who.Dir, "recordings")
	s.live, err = live.New(cfg.Live, live.Deps{
		Rights: s.who, RTSP: deps.Live.RTSP, RTMP: deps.Live.RTMP, RTP: deps.Live.RTP, RTCP: deps.Live.RTCP,
		Registry: deps.Registry, Log: deps.Log,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	lives := s.who.Handler(s.live)
	mux.Handle("/", s.files.Handler())
	mux.Handle("/live", lives)
	mux.Handle("/live/", lives)
	s.http = &http.Server{
		Handler: s.admit(mux), TLSConfig: deps.ServerTLS, HTTP2: cellclient.FilesHTTP2(),
		ReadHeaderTimeout: headerTimeout, ErrorLog: log.New(io.Discard, "", 0),
	}
	return s, nil
}

// admit lets in who may say who calls: edges and nodes of cells.
func (s *Server) admit(next http.Handler) http.Handler {
	if s.deps.ServerTLS == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := certs.PeerOf(r.TLS)
		if !ok || id.Role != certs.RoleEdge && id.Role != certs.RoleCell {
			http.Error(w, "only edges and nodes of cells may call", http.StatusForbidden)
			return
		}
		if id.Role != certs.RoleCell && strings.HasPrefix(r.URL.Path, cellclient.ArrivingFiles) {
			http.Error(w, "only nodes of cells send files to each other", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Run serves until ctx ends and returns after the last request.
func (s *Server) Run(ctx context.Context) error {
	var beside errgroup.Group // awaited below
	beside.Go(func() error { return s.files.Run(ctx) })
	beside.Go(func() error { return s.who.Run(ctx) })
	living := make(chan error, 1)
	go func() { living <- s.live.Run(ctx) }() // awaited below
	serving := make(chan error, 1)
	go func() { // ends by Shutdown or Close
		if s.deps.ServerTLS == nil {
			serving <- s.http.Serve(s.deps.Listener)
			return
		}
		serving <- s.http.ServeTLS(s.deps.Listener, "", "")
	}()
	var err error
	select {
	case <-ctx.Done():
		err = <-living // livestreams tell of their ends while edges still reach us
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		if s.http.Shutdown(end) != nil {
			_ = s.http.Close()
		}
		cancel()
		<-serving
	case err = <-living:
	case err = <-serving:
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("resource: %w", err)
	}
	return errors.Join(beside.Wait(), s.Close())
}

// StoredHere counts the contents of files on this node's own disk.
func (s *Server) StoredHere(ctx context.Context) (uint64, error) { return s.files.StoredHere(ctx) }

// Close frees a server that does not run.
func (s *Server) Close() error {
	s.proxy.Close()
	err := errors.Join(s.live.Close(), s.deps.Live.Close())
	if closeErr := s.deps.Listener.Close(); !errors.Is(closeErr, net.ErrClosed) {
		err = errors.Join(err, closeErr)
	}
	return err
}
