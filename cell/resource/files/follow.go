package files

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/waggle-im/waggle/cell/resource/blob"
	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// When a range moves to another cell its files' rows move with it, and their
// contents follow. The node that has one sends it, opened, to a node of the
// owner's cell, which seals it under a key of its own, verifies it, stores it
// and has the row say so; only then is the first content removed. Until the
// row says so it is read where it was.
//
//	source: blob of a user of another cell ─► PUT ─► target: seal, verify, store ─► PlaceFile ─► source: remove

// followsAtOnce bounds the contents sent in one round: a round is not to last
// for ever, and the next is near.
const followsAtOnce = 256

// follow sends contents of users who live in another cell by now. A bucket is
// no node's, and stays where it is.
func (s *Service) follow(ctx context.Context) error {
	if s.cfg.Store != "" {
		return nil
	}
	sent := 0
	return s.store.List(ctx, func(e blob.Entry) error {
		id, ok := ownerOf(e.Name)
		if !ok {
			return ctx.Err()
		}
		route, known := s.deps.Directory.Routes().Lookup(id.Owner.Range())
		if !known || route.Cell == s.cfg.Cell || sent >= followsAtOnce {
			return ctx.Err()
		}
		sent++
		if err := s.sendAfter(ctx, id, e.Name, route.Cell); err != nil {
			s.log.Debug("a file does not follow its owner", "file", id.String(), "to", route.Cell, "err", err)
		}
		return ctx.Err()
	})
}

// ownerOf is the file that a blob's name speaks of.
func ownerOf(name string) (proto.FileID, bool) {
	cut := strings.LastIndexByte(name, '-')
	if cut < 0 {
		return proto.FileID{}, false
	}
	id, err := proto.ParseFileID(name[:cut])
	return id, err == nil
}

// sendAfter sends one content to a node of its owner's cell.
func (s *Service) sendAfter(ctx context.Context, id proto.FileID, name string, cell proto.CellID) error {
	known, err := s.readFile(ctx, id)
	file := fileOf(known)
	if err != nil || file.GetBlob() != name || file.GetNode() != string(s.cfg.Node) {
		return err // collected some day, if it is nobody's
	}
	nodes := s.deps.Directory.FilesNodes(cell)
	if len(nodes) == 0 {
		return proto.Errorf(proto.CodeUnavailable, "no node of cell %s serves files just now", cell)
	}
	content, err := s.openFile(ctx, file)
	if err != nil {
		return err
	}
	defer content.Close()
	weight := func(n proto.NodeID) uint64 { return xxhash.Sum64String(id.Owner.String() + "/" + string(n)) }
	node := slices.MaxFunc(nodes, func(a, b proto.NodeID) int { return cmp.Compare(weight(a), weight(b)) })
	if err := s.deps.Proxy.SendFile(ctx, node, id, int64(file.Size), s.deps.Gate.Reader(ctx, content)); err != nil {
		return err
	}
	s.log.Info("a file has followed its owner", "file", id.String(), "to", node)
	return s.store.Remove(ctx, name)
}

// arrive takes the content of a file whose owner lives in this cell now. What
// the file is its row says, not the sender. Who sends must have been checked:
// only nodes of cells may.
func (s *Service) arrive(w http.ResponseWriter, r *http.Request) {
	id, err := proto.ParseFileID(r.PathValue("id"))
	if err == nil {
		err = s.takeOver(r, id)
	}
	if err != nil {
		writeProblem(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Service) takeOver(r *http.Request, id proto.FileID) error {
	ctx := r.Context()
	known, err := s.readFile(ctx, id)
	if err != nil {
		return err
	}
	file := fileOf(known)
	switch {
	case file == nil:
		return proto.Errorf(proto.CodeUnknownFile, "there is no file %s", id)
	case file.Node == string(s.cfg.Node):
		return nil // it was taken, and the answer lost
	case !s.beginArriving(id):
		return proto.Errorf(proto.CodeOverloaded, "file %s is just arriving", id)
	}
	defer s.endArriving(id)
	rec, err := s.receive(r, id, file)
	if err != nil {
		return errors.Join(err, s.dropUpload(id))
	}
	placed, err := s.storeContent(ctx, rec)
	if err == nil {
		_, err = s.ask(ctx, id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_PlaceFile{PlaceFile: &cellpb.PlaceFile{
			User: uint64(id.Owner), Number: id.Number, FromBlob: file.Blob, File: placed,
		}}})
	}
	// After an unknown outcome the content stays: the row may name it. If it
	// does not, a collection removes it.
	return errors.Join(err, s.dropUpload(id))
}

// receive writes the content as an upload's is written.
func (s *Service) receive(r *http.Request, id proto.FileID, file *cellpb.StoredFile) (*record, error) {
	var nonce [8]byte
	_, _ = rand.Read(nonce[:])
	rec := &record{
		Format: recordFormat, Owner: id.Owner, Number: id.Number, Size: int64(file.Size), Name: file.Name,
		Expected: hex.EncodeToString(file.Blake3), Created: s.now().UnixMilli(), Blob: id.String() + "-" + hex.EncodeToString(nonce[:]),
	}
	rec.KeyID, rec.Key = s.keys.Wrap(rec.Blob, seal.NewKey())
	if err := s.dropUpload(id); err != nil { // of a try before
		return nil, err
	}
	if err := os.MkdirAll(s.folder(id), 0o700); err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	if err := s.saveRecord(rec); err != nil {
		return nil, err
	}
	w, err := s.openWriting(r.Context(), rec, false)
	if err != nil {
		return nil, err
	}
	_, err = w.readFrom(http.MaxBytesReader(nil, r.Body, rec.Size))
	if err = errors.Join(err, w.end()); err != nil {
		return nil, err
	}
	if rec.offset() != rec.Size {
		return nil, proto.Errorf(proto.CodeBadRequest, "file %s has %d bytes, and %d came", id, rec.Size, rec.offset())
	}
	if err := s.sealContent(r.Context(), rec); err != nil {
		return nil, err
	}
	if !bytes.Equal(rec.Sum, file.Blake3) {
		return nil, proto.Errorf(proto.CodeCorrupt, "the content of file %s is not what its row says", id)
	}
	return rec, nil
}

// StoredHere counts the contents on this node's disk; 0 where a bucket has them.
func (s *Service) StoredHere(ctx context.Context) (n uint64, err error) {
	if s.cfg.Store != "" {
		return 0, nil
	}
	err = s.store.List(ctx, func(e blob.Entry) error {
		if _, ok := ownerOf(e.Name); ok {
			n++
		}
		return ctx.Err()
	})
	return n, err
}

func (s *Service) beginArriving(id proto.FileID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arrives[id] {
		return false
	}
	s.arrives[id] = true
	return true
}

func (s *Service) endArriving(id proto.FileID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.arrives, id)
}

func (s *Service) arriving(id proto.FileID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arrives[id]
}
