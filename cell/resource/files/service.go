package files

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"
	xslog "golang.org/x/exp/slog"

	"github.com/waggle-im/waggle/cell/resource/blob"
	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
)

// graceAfterRequest is how long tusd keeps a request's context for the store.
// The store does not heed it, and goroutines wait for it.
const graceAfterRequest = 50 * time.Millisecond

// hopsMax bounds how often a request goes from one resource node to another:
// from the owner's cell to the one that has the blob.
const hopsMax = 2

// Service serves files. Use [Service.Handler]; Run collects.
type Service struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	staging string
	keys    *seal.Keyring
	links   []byte
	store   blob.Store
	limits  *limits
	drawing chan struct{} // holds one: a picture is being decoded
	hashes  hashes
	handler http.Handler
	now     func() time.Time

	mu      sync.Mutex // guards arrives
	arrives map[proto.FileID]bool
}

// New opens the folder and the store of files. It starts nothing.
//
// Errors name the file or the key of the configuration.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg: cfg, deps: deps, log: deps.Log, staging: filepath.Join(cfg.Dir, "staging"), limits: newLimits(cfg, deps.Gate), now: time.Now,
		arrives: map[proto.FileID]bool{},
		drawing: make(chan struct{}, 1),
	}
	if err := os.MkdirAll(s.staging, 0o700); err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	if cfg.KeysFile == "" {
		cfg.KeysFile = filepath.Join(cfg.Dir, "keys")
	}
	var err error
	if s.keys, err = seal.EnsureKeyring(cfg.KeysFile); err != nil {
		return nil, err
	}
	if s.links, err = linkKey(cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.Store == "" {
		s.store, err = blob.NewDisk(filepath.Join(cfg.Dir, "blobs"))
	} else {
		s.store, err = blob.NewS3(cfg.Store)
	}
	if err != nil {
		return nil, err
	}
	s.handler, err = s.routes()
	return s, err
}

// Handler serves the requests that edges and other resource nodes pass on. Who
// they are must have been checked: what they say of the caller is believed.
func (s *Service) Handler() http.Handler { return s.handler }

func (s *Service) routes() (http.Handler, error) {
	composer := handler.NewStoreComposer()
	store := tusStore{s}
	composer.UseCore(store)
	composer.UseTerminater(store)
	composer.UseConcater(store)
	composer.UseLengthDeferrer(store)
	composer.UseLocker(&locker{held: map[string]*holder{}})
	tus, err := handler.NewHandler(handler.Config{
		StoreComposer: composer, BasePath: "/uploads/", MaxSize: proto.FileBytesMax, DisableDownload: true,
		RespectForwardedHeaders: true, Cors: &handler.CorsConfig{Disable: true},
		GracefulRequestCompletionTimeout: graceAfterRequest,
		Logger:                           xslog.New(xslog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	mux := http.NewServeMux()
	uploads := s.uploads(http.StripPrefix("/uploads", tus))
	mux.Handle("/uploads", uploads)
	mux.Handle("/uploads/", uploads)
	mux.HandleFunc("GET /files", s.list)
	mux.HandleFunc("GET /files/{id}", s.download)
	mux.HandleFunc("GET /files/{id}/info", s.info)
	mux.HandleFunc("POST /files/{id}/link", s.makeLink)
	mux.HandleFunc("DELETE /files/{id}", s.remove)
	mux.HandleFunc("PUT "+cellclient.ArrivingFiles+"{id}", s.arrive)
	mux.HandleFunc("POST /avatars", s.setAvatar)
	mux.HandleFunc("DELETE /avatars", s.setAvatar)
	mux.HandleFunc("GET /avatars/{id}", s.avatar)
	return mux, nil
}

// uploads puts around tusd what it lacks: who asks, limits, checksums and the
// time of expiry.
func (s *Service) uploads(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := s.caller(r)
		if err != nil {
			writeProblem(w, err)
			return
		}
		body := &stoppable{ReadCloser: r.Body, control: http.NewResponseController(w)}
		a := &asked{caller: caller, interrupt: body.stop}
		if header := r.Header.Get("Upload-Checksum"); header != "" {
			if a.checksum, err = parseChecksum(header); err != nil {
				writeProblem(w, err)
				return
			}
		}
		if r.Method == http.MethodPost || r.Method == http.MethodPatch {
			transfer, end, err := s.limits.begin(r.Context(), caller.User)
			if err != nil {
				writeProblem(w, err)
				return
			}
			defer end()
			a.transfer = transfer
		}
		r = r.WithContext(context.WithValue(r.Context(), askedKey{}, a))
		r.Body = body
		defer body.end()
		next.ServeHTTP(&tusWriter{ResponseWriter: w, asked: a, options: r.Method == http.MethodOptions}, r)
	})
}

// tusWriter adds the headers of the extensions that are ours.
type tusWriter struct {
	http.ResponseWriter
	asked   *asked
	options bool
	moved   time.Time // the read deadline last set
}

// deadlineStep is by how much a deadline must move to be set: tusd moves it at
// every read, which costs HTTP/2 a message to its loop each time.
const deadlineStep = time.Second

// SetReadDeadline makes [http.ResponseController] pass over small steps.
func (w *tusWriter) SetReadDeadline(at time.Time) error {
	if step := at.Sub(w.moved); step >= 0 && step < deadlineStep {
		return nil
	}
	w.moved = at
	return http.NewResponseController(w.ResponseWriter).SetReadDeadline(at)
}

// SetWriteDeadline is left to who reads the answer: the edge watches its
// client, and this node its edge by pings.
func (w *tusWriter) SetWriteDeadline(time.Time) error { return nil }

// WriteHeader implements [http.ResponseWriter].
func (w *tusWriter) WriteHeader(status int) {
	h := w.Header()
	if w.options {
		h.Set("Tus-Extension", h.Get("Tus-Extension")+",checksum,expiration")
		h.Set("Tus-Checksum-Algorithm", checksumAlgorithms)
	}
	if !w.asked.expires.IsZero() {
		h.Set("Upload-Expires", expiresHeader(w.asked.expires))
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets [http.ResponseController] find the connection.
func (w *tusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// caller is who asks, with a login that still counts.
func (s *Service) caller(r *http.Request) (cellclient.Caller, error) {
	c, ok := cellclient.CallerOf(r.Header)
	if !ok {
		return c, proto.Errorf(proto.CodeBadToken, "log in first")
	}
	return c, s.standing(r.Context(), c)
}

// reading is one request for a file.
type reading struct {
	caller cellclient.Caller
	id     proto.FileID
	at     place
}

// reading finds out who asks for which file, by header or by link, and that
// his login still counts.
func (s *Service) reading(r *http.Request) (reading, error) {
	id, err := proto.ParseFileID(r.PathValue("id"))
	if err != nil {
		return reading{}, proto.Errorf(proto.CodeUnknownFile, "%v", err)
	}
	q := r.URL.Query()
	out := reading{id: id, at: place{Thread: q.Get("thread")}}
	if text := q.Get("seq"); text != "" {
		if _, err := fmt.Sscanf(text, "%d", &out.at.Seq); err != nil {
			return reading{}, proto.Errorf(proto.CodeBadRequest, "seq is not a number")
		}
	}
	var known bool
	if out.caller, known = cellclient.CallerOf(r.Header); !known {
		l, err := s.openLink(q.Get("link"), id)
		if err != nil {
			return reading{}, err
		}
		out.caller, out.at = l.Caller, l.Place
	}
	return out, s.standing(r.Context(), out.caller)
}

// logFailed notes what a later collection will do again.
func (s *Service) logFailed(id proto.FileID, err error) {
	if err != nil {
		s.log.Warn("the remains of an upload are left for the next collection", "file", id.String(), "err", err)
	}
}

// scheme is that of the client's request, as the edge says.
func scheme(r *http.Request) string {
	if strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "http") {
		return "http"
	}
	return "https"
}
