// Package admin serves a node's admin address: HTTP for people and probes,
// gRPC for operator verbs, both on one port without TLS. It belongs on a
// loopback or otherwise protected address.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// shutdownTimeout bounds the answering of requests under way at the end.
const shutdownTimeout = time.Second

// Check is one condition of readiness.
type Check struct {
	Name string
	Err  error // nil: holds
}

// Config is what a [Server] serves. Everything but Listener may be nil.
type Config struct {
	Listener net.Listener        // closed by Run
	GRPC     func() *grpc.Server // the server of the moment, may be nil; stopped at the end
	Gatherer prometheus.Gatherer
	Checks   func() []Check
	Handlers map[string]http.Handler // further patterns, as of http.ServeMux
	Logger   *slog.Logger
}

// Server is one admin address.
type Server struct {
	cfg  Config
	http *http.Server
}

// New makes a server. It starts nothing.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("POST /debug/gc", func(w http.ResponseWriter, _ *http.Request) {
		debug.FreeOSMemory() // collects first
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	if cfg.Gatherer != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{}))
	}
	for pattern, handler := range cfg.Handlers {
		mux.Handle(pattern, handler)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler: s.split(mux), Protocols: protocols, ReadHeaderTimeout: 5 * time.Second,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	return s
}

// split sends gRPC to its server and everything else to mux.
func (s *Server) split(mux http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			mux.ServeHTTP(w, r)
			return
		}
		if s.cfg.GRPC != nil {
			if server := s.cfg.GRPC(); server != nil {
				server.ServeHTTP(w, r)
				return
			}
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", strconv.Itoa(int(codes.Unavailable)))
		w.Header().Set("Grpc-Message", "no operator verbs are served here just now")
		w.WriteHeader(http.StatusOK)
	})
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	var checks []Check
	if s.cfg.Checks != nil {
		checks = s.cfg.Checks()
	}
	var out strings.Builder
	status := http.StatusOK
	for _, c := range checks {
		if c.Err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&out, "[-] %s: %v\n", c.Name, c.Err)
		} else {
			fmt.Fprintf(&out, "[+] %s ok\n", c.Name)
		}
	}
	w.WriteHeader(status)
	switch {
	case r.URL.Query().Has("verbose"):
		fmt.Fprint(w, out.String())
	case status == http.StatusOK:
		fmt.Fprintln(w, "ok")
	default:
		fmt.Fprintln(w, "not ready: see /readyz?verbose")
	}
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(s.cfg.Listener) }() // ends by Shutdown or Close
	select {
	case err := <-failed:
		return fmt.Errorf("admin: serve %s: %w", s.cfg.Listener.Addr(), err)
	case <-ctx.Done():
	}
	if s.cfg.GRPC != nil {
		if server := s.cfg.GRPC(); server != nil {
			server.Stop()
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := s.http.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	<-failed
	return err
}
