package files

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// sniffBytes is what the content type is found by.
const sniffBytes = 512

// sniff is the content type by the first bytes.
func sniff(r io.Reader) (string, error) {
	head := make([]byte, sniffBytes)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	return http.DetectContentType(head[:n]), nil
}

// openFile reads a file that this node can reach.
func (s *Service) openFile(ctx context.Context, file *cellpb.StoredFile) (*seal.Reader, error) {
	key, err := s.keys.Unwrap(file.Blob, file.KeyId, file.Key)
	if err != nil {
		return nil, err
	}
	return seal.NewReader(seal.NewSealer(file.Blob, key), int64(file.Size), func(offset int64) (io.ReadCloser, error) {
		return s.store.Open(ctx, file.Blob, offset)
	}), nil
}

// download serves the content of a file.
func (s *Service) download(w http.ResponseWriter, r *http.Request) {
	ask, err := s.reading(r)
	if err == nil {
		err = s.mayRead(r.Context(), ask.caller, ask.id, ask.at)
	}
	if err != nil {
		writeProblem(w, err)
		return
	}
	known, err := s.readFile(r.Context(), ask.id)
	file := fileOf(known)
	if err == nil && file == nil {
		err = errUnknownFile(ask.id)
	}
	if err != nil {
		writeProblem(w, err)
		return
	}
	if node := s.elsewhere(file); node != "" {
		s.passOn(w, r, ask, node)
		return
	}
	transfer, end, err := s.limits.begin(r.Context(), ask.caller.User)
	if err != nil {
		writeProblem(w, err)
		return
	}
	defer end()
	s.serve(w, r, ask.id, file, transfer)
}

// serve answers a request for a file that this node can reach.
func (s *Service) serve(w http.ResponseWriter, r *http.Request, id proto.FileID, file *cellpb.StoredFile, t *transfer) {
	content, err := s.openFile(r.Context(), file)
	if err != nil {
		s.log.Error("a file cannot be opened", "file", id.String(), "err", err)
		writeProblem(w, err)
		return
	}
	defer content.Close()
	h := w.Header()
	h.Set("Content-Type", file.Type)
	h.Set("Content-Disposition", disposition(file))
	h.Set("Etag", `"`+hex.EncodeToString(file.Blake3)+`"`)
	h.Set("Cache-Control", "private, no-cache") // asked anew whether it may be read
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	late := &lateWriter{ResponseWriter: limitedWriter{w, t}}
	http.ServeContent(late, r, "", time.UnixMilli(file.CompletedMs), content)
	err = content.Err()
	if err == nil {
		late.flush()
		return
	}
	if r.Context().Err() == nil { // else the client has gone
		s.log.Error("a stored file cannot be read", "file", id.String(), "blob", file.Blob, "err", err)
	}
	if late.begun {
		panic(http.ErrAbortHandler) // so that what came is not taken for the whole
	}
	writeProblem(w, err)
}

// lateWriter holds the status back until there is content: a file that cannot
// be read from the first block on is answered with an error.
type lateWriter struct {
	http.ResponseWriter
	status int
	begun  bool
}

// WriteHeader implements [http.ResponseWriter].
func (l *lateWriter) WriteHeader(status int) { l.status = status }

// Write implements [http.ResponseWriter].
func (l *lateWriter) Write(p []byte) (int, error) {
	l.flush()
	return l.ResponseWriter.Write(p)
}

func (l *lateWriter) flush() {
	if !l.begun {
		l.begun = true
		if l.status != 0 {
			l.ResponseWriter.WriteHeader(l.status)
		}
	}
}

// inlineTypes are shown by browsers in their place; others are stored. SVG is
// none of them: it can hold scripts.
func inline(contentType string) bool {
	return strings.HasPrefix(contentType, "video/") ||
		slices.Contains([]string{"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"}, contentType)
}

func disposition(file *cellpb.StoredFile) string {
	kind := "attachment"
	if inline(file.Type) {
		kind = "inline"
	}
	if text := mime.FormatMediaType(kind, map[string]string{"filename": file.Name}); text != "" {
		return text
	}
	return kind
}

// elsewhere names the node that has a file which this one has not.
func (s *Service) elsewhere(file *cellpb.StoredFile) proto.NodeID {
	cell, node := proto.CellID(file.Cell), proto.NodeID(file.Node)
	switch {
	case node != "" && node != s.cfg.Node:
		return node
	case node != "" || cell == s.cfg.Cell:
		return ""
	}
	if nodes := s.deps.Directory.FilesNodes(cell); len(nodes) > 0 {
		return nodes[0]
	}
	return proto.NodeID(cell) // none is alive: passing on says so
}

// passOn has another resource node answer, which decides anew who may read.
func (s *Service) passOn(w http.ResponseWriter, r *http.Request, ask reading, node proto.NodeID) {
	hops := cellclient.Hops(r.Header) + 1
	if hops > hopsMax {
		writeProblem(w, proto.Errorf(proto.CodeUnavailable, "the file %s is just changing its place: try again", ask.id))
		return
	}
	q := url.Values{}
	if ask.at.Thread != "" {
		q.Set("thread", ask.at.Thread)
		q.Set("seq", strconv.FormatUint(ask.at.Seq, 10))
	}
	r = r.Clone(r.Context())
	r.URL.RawQuery = q.Encode()
	s.deps.Proxy.Forward(w, r, cellclient.Forwarding{Node: node, Caller: &ask.caller, Scheme: scheme(r), Hops: hops, Failed: writeProblem})
}
