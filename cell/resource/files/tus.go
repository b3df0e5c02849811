package files

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tus/tusd/v2/pkg/handler"

	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// metaBytesMax bounds what a client says of an upload; it stands in every
// record.
const metaBytesMax = 4 << 10

// partsMax bounds the parts of one file: each is an upload of its own.
const partsMax = proto.UploadsMax - 1

// asked is what the store must know of the request it works for.
type asked struct {
	caller    cellclient.Caller
	transfer  *transfer
	interrupt func()    // ends the reading of its body
	checksum  *checksum // that the chunk must have; nil: none
	expires   time.Time // set by the store: of the upload at hand
}

type askedKey struct{}

func askedOf(ctx context.Context) *asked {
	a, _ := ctx.Value(askedKey{}).(*asked)
	if a == nil {
		a = new(asked) // nobody: owns nothing
	}
	return a
}

// tusStore is the store of tusd: uploads on this node's disk.
type tusStore struct{ s *Service }

// upload is one upload as tusd handles it, under its lock.
type upload struct {
	s        *Service
	r        *record
	complete *cellpb.StoredFile // not nil: a file already, r has only its id
}

func (s *Service) uploadID(id proto.FileID) string { return id.String() + "~" + string(s.cfg.Node) }

// NewUpload implements [handler.DataStore].
func (t tusStore) NewUpload(ctx context.Context, info handler.FileInfo) (handler.Upload, error) {
	u, err := t.s.newUpload(ctx, info)
	if err != nil {
		return nil, tusError(err)
	}
	return u, nil
}

func (s *Service) newUpload(ctx context.Context, info handler.FileInfo) (*upload, error) {
	a := askedOf(ctx)
	r, err := newRecord(info)
	if err != nil {
		return nil, err
	}
	if info.IsFinal {
		if r.Parts, err = s.partsOf(ctx, info.PartialUploads); err != nil {
			return nil, err
		}
		if err := s.dropJoined(ctx, a.caller.User, r.Parts); err != nil {
			return nil, err
		}
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	reply, err := s.ask(ctx, a.caller.User, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_CreateFile{CreateFile: &cellpb.CreateFile{
		User: uint64(a.caller.User), Nonce: nonce[:], Size: uint64(r.Size), Quota: uint64(s.cfg.QuotaBytes), Parts: r.Parts,
	}}})
	if err != nil {
		return nil, err
	}
	row := reply.GetResult().GetFile()
	r.Owner, r.Number, r.Reserved, r.Created = a.caller.User, row.GetNumber(), r.Size, row.GetUpload().GetCreatedMs()
	// Random at the end: a range restored from a backup gives numbers anew.
	r.Blob = r.id().String() + "-" + hex.EncodeToString(nonce[:8])
	r.KeyID, r.Key = s.keys.Wrap(r.Blob, seal.NewKey())
	if err := s.saveRecord(r); err != nil {
		_, removeErr := s.removeFile(ctx, r.id(), time.Time{})
		return nil, errors.Join(err, removeErr)
	}
	a.expires = r.expires()
	return &upload{s: s, r: r}, nil
}

// newRecord checks what a client says of a new upload.
func newRecord(info handler.FileInfo) (*record, error) {
	r := &record{
		Format: recordFormat, Size: info.Size, Deferred: info.SizeIsDeferred, Partial: info.IsPartial, Final: info.IsFinal,
		Meta: map[string]string(info.MetaData),
	}
	said := 0
	for k, v := range r.Meta {
		said += len(k) + len(v)
		if !plainKey(k) {
			return nil, proto.Errorf(proto.CodeBadRequest, "Upload-Metadata has a key that is no plain word")
		}
	}
	r.Name = r.Meta["filename"]
	if r.Name == "" {
		r.Name = r.Meta["name"]
	}
	r.Name = cleanName(r.Name)
	r.Expected = strings.ToLower(r.Meta["blake3"])
	raw, err := hex.DecodeString(r.Expected)
	switch {
	case info.Size < 0 || info.Size > proto.FileBytesMax:
		return nil, proto.Errorf(proto.CodeTooBig, "a file has at most %d bytes", int64(proto.FileBytesMax))
	case said > metaBytesMax:
		return nil, proto.Errorf(proto.CodeTooBig, "Upload-Metadata has more than %d bytes", metaBytesMax)
	case err != nil || len(raw) != 0 && len(raw) != 32:
		return nil, proto.Errorf(proto.CodeBadRequest, "the hash in Upload-Metadata (blake3) is not 64 hexadecimal digits")
	}
	return r, nil
}

func plainKey(k string) bool {
	return len(k) <= 64 && strings.IndexFunc(k, func(c rune) bool { return c <= ' ' || c > '~' || c == ',' }) < 0
}

// cleanName makes a name that is safe to show and to store under: the last
// part of what may have been a path, without control characters and what
// turns the direction of writing.
func cleanName(name string) string {
	name = strings.ToValidUTF8(name, "")
	name = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || c == '\u2028' || c == '\u2029' {
			return -1
		}
		return c
	}, strings.ReplaceAll(name, `\`, "/"))
	name = strings.TrimSpace(path.Base("/" + name))
	name = strings.TrimLeft(name, ".")
	for len(name) > proto.FileNameBytesMax {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	if name == "" || name == "/" {
		return "file"
	}
	return name
}

// partsOf reads the numbers of the uploads to be joined; each must be the
// caller's, on this node and complete, which tusd has looked at.
func (s *Service) partsOf(ctx context.Context, ids []string) ([]uint64, error) {
	if len(ids) > partsMax {
		return nil, proto.Errorf(proto.CodeTooMany, "a file is joined of at most %d parts", partsMax)
	}
	var out []uint64
	for _, text := range ids {
		u, err := s.findUpload(ctx, text)
		if err != nil {
			return nil, err
		}
		if !u.r.Partial || !u.r.Sealed || slices.Contains(out, u.r.Number) {
			return nil, proto.Errorf(proto.CodeBadRequest, "upload %.100q is no complete part, or is named twice", text)
		}
		out = append(out, u.r.Number)
	}
	return out, nil
}

// dropJoined ends earlier attempts to join some of the same parts: a client
// that lost the answer begins anew, and need not have the quota twice.
func (s *Service) dropJoined(ctx context.Context, user proto.EntityID, parts []uint64) error {
	ids, err := s.stagedUploads()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id.Owner != user {
			continue
		}
		r, err := s.loadRecord(id)
		if err != nil || !r.Final || !slices.ContainsFunc(r.Parts, func(n uint64) bool { return slices.Contains(parts, n) }) {
			continue
		}
		if _, err := s.removeFile(ctx, id, time.Time{}); err != nil {
			return err
		}
		if err := s.dropUpload(id); err != nil {
			return err
		}
	}
	return nil
}

// GetUpload implements [handler.DataStore].
func (t tusStore) GetUpload(ctx context.Context, id string) (handler.Upload, error) {
	u, err := t.s.findUpload(ctx, id)
	if err == nil && u.complete == nil && !u.r.Deferred && !u.r.Final && u.r.offset() == u.r.Size {
		// All bytes are there and it is no file yet: a crash came between.
		// Who asks how far it is must not be told that all is done.
		err = u.finish(ctx)
	}
	if err != nil {
		return nil, tusError(err)
	}
	return u, nil
}

// findUpload finds the caller's upload, or the file it has become.
func (s *Service) findUpload(ctx context.Context, text string) (*upload, error) {
	name, node, _ := strings.Cut(text, "~")
	id, err := proto.ParseFileID(name)
	a := askedOf(ctx)
	if err != nil || node != string(s.cfg.Node) || id.Owner != a.caller.User {
		return nil, handler.ErrNotFound
	}
	r, err := s.loadRecord(id)
	if err == nil {
		a.expires = r.expires()
		return &upload{s: s, r: r}, nil
	}
	if !notThere(err) {
		return nil, err
	}
	known, err := s.readFile(ctx, id)
	if err != nil {
		return nil, err
	}
	file := fileOf(known)
	if file == nil {
		return nil, handler.ErrNotFound
	}
	return &upload{s: s, r: &record{Owner: id.Owner, Number: id.Number, Size: int64(file.Size), Sealed: true}, complete: file}, nil
}

// GetInfo implements [handler.Upload].
func (u *upload) GetInfo(context.Context) (handler.FileInfo, error) {
	info := handler.FileInfo{
		ID: u.s.uploadID(u.r.id()), Size: u.r.Size, SizeIsDeferred: u.r.Deferred, Offset: u.r.offset(),
		MetaData: u.r.Meta, IsPartial: u.r.Partial, IsFinal: u.r.Final,
	}
	for _, n := range u.r.Parts {
		info.PartialUploads = append(info.PartialUploads, u.s.uploadID(proto.FileID{Owner: u.r.Owner, Number: n}))
	}
	return info, nil
}

// WriteChunk implements [handler.Upload]. What it counts is durable.
func (u *upload) WriteChunk(ctx context.Context, _ int64, src io.Reader) (int64, error) {
	n, err := u.writeChunk(ctx, src)
	return n, tusError(err)
}

func (u *upload) writeChunk(ctx context.Context, src io.Reader) (int64, error) {
	a := askedOf(ctx)
	if !u.s.now().Before(u.r.expires()) {
		return 0, handler.NewError("ERR_UPLOAD_EXPIRED", "the upload took too long: begin anew", 410)
	}
	before := u.r.offset()
	if a.checksum != nil {
		src = a.checksum.reader(src)
	}
	if a.transfer != nil {
		src = limitedReader{src, a.transfer}
	}
	w, err := u.s.openWriting(ctx, u.r, a.checksum != nil)
	if err != nil {
		return 0, err
	}
	_, err = w.readFrom(src)
	if a.checksum != nil && (err != nil || !a.checksum.matches()) {
		// The record was not touched: the chunk never came.
		w.giveUp()
		old, loadErr := u.s.loadRecord(u.r.id())
		if loadErr != nil {
			return 0, loadErr
		}
		*u.r = *old
		if err == nil {
			err = handler.NewError("ERR_CHECKSUM_MISMATCH", "the chunk is not what Upload-Checksum says: send it again", statusChecksumMismatch)
		}
		return 0, err
	}
	// Whatever ended the chunk: what came so far counts.
	err = errors.Join(err, w.end())
	if err != nil && asRegistry(err).Code == proto.CodeUnavailable {
		u.s.log.Warn("a chunk of an upload is not stored whole", "file", u.r.id().String(), "err", err)
	}
	old, loadErr := u.s.loadRecord(u.r.id())
	if loadErr != nil {
		return 0, errors.Join(err, loadErr)
	}
	*u.r = *old
	return u.r.offset() - before, err
}

// GetReader implements [handler.Upload]; contents are read by other addresses.
func (u *upload) GetReader(context.Context) (io.ReadCloser, error) {
	return nil, handler.ErrNotImplemented
}

// FinishUpload implements [handler.Upload].
func (u *upload) FinishUpload(ctx context.Context) error { return tusError(u.finish(ctx)) }

// finish makes the upload a file: seal, verify, store, commit. Every step can
// be repeated after a crash.
func (u *upload) finish(ctx context.Context) error {
	s, r := u.s, u.r
	if u.complete != nil {
		return nil
	}
	if err := s.sealContent(ctx, r); err != nil {
		if _, other := errors.AsType[*otherHashError](err); other {
			_, removeErr := s.removeFile(ctx, r.id(), time.Time{})
			s.logFailed(r.id(), errors.Join(removeErr, s.dropUpload(r.id())))
			return handler.NewError("ERR_CHECKSUM_MISMATCH", err.Error(), statusChecksumMismatch)
		}
		return err
	}
	if r.Partial {
		return nil
	}
	file, err := s.storeContent(ctx, r)
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, r.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_CompleteFile{CompleteFile: &cellpb.CompleteFile{
		User: uint64(r.Owner), Number: r.Number, File: file, Parts: r.Parts,
	}}})
	if proto.CodeOf(err) == proto.CodeUnknownFile { // ended meanwhile
		s.logFailed(r.id(), errors.Join(s.store.Remove(context.WithoutCancel(ctx), r.Blob), s.dropUpload(r.id())))
	}
	if err != nil {
		return err
	}
	u.complete = file
	for _, n := range append([]uint64{r.Number}, r.Parts...) {
		id := proto.FileID{Owner: r.Owner, Number: n}
		s.logFailed(id, s.dropUpload(id)) // or else a collection does
	}
	return nil
}

// storeContent gives the sealed content to the store and describes the file.
func (s *Service) storeContent(ctx context.Context, r *record) (*cellpb.StoredFile, error) {
	ctx = context.WithoutCancel(ctx)
	content := filepath.Join(s.folder(r.id()), contentFile)
	err := s.store.Put(ctx, r.Blob, content)
	if notThere(err) {
		// Stored by an attempt before, that ended before it was committed.
		size, sizeErr := s.store.Size(ctx, r.Blob)
		if sizeErr == nil && size == seal.StoredBytes(r.Size) {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	file := &cellpb.StoredFile{
		Name: r.Name, Size: uint64(r.Size), Blake3: r.Sum, Cell: string(s.cfg.Cell), Blob: r.Blob, KeyId: r.KeyID, Key: r.Key,
	}
	if s.cfg.Store == "" {
		file.Node = string(s.cfg.Node)
	}
	reader, err := s.openFile(ctx, file)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	file.Type, err = sniff(reader)
	return file, err
}

// AsTerminatableUpload implements [handler.TerminaterDataStore].
func (t tusStore) AsTerminatableUpload(u handler.Upload) handler.TerminatableUpload {
	return u.(*upload)
}

// Terminate implements [handler.TerminatableUpload]. A complete file is not an
// upload any more.
func (u *upload) Terminate(ctx context.Context) error {
	if u.complete != nil {
		return handler.ErrNotFound
	}
	_, err := u.s.removeFile(ctx, u.r.id(), time.Time{})
	if err == nil {
		err = u.s.dropUpload(u.r.id())
	}
	return tusError(err)
}

// AsConcatableUpload implements [handler.ConcaterDataStore].
func (t tusStore) AsConcatableUpload(u handler.Upload) handler.ConcatableUpload { return u.(*upload) }

// ConcatUploads implements [handler.ConcatableUpload]: the parts, each under
// its own key, are read once and written as one.
func (u *upload) ConcatUploads(ctx context.Context, parts []handler.Upload) error {
	return tusError(u.join(ctx, parts))
}

func (u *upload) join(ctx context.Context, parts []handler.Upload) error {
	w, err := u.s.openWriting(ctx, u.r, false)
	if err != nil {
		return err
	}
	for _, p := range parts {
		part := p.(*upload).r
		sealer, err := u.s.sealerOf(part)
		if err != nil {
			w.giveUp()
			return err
		}
		content := seal.NewReader(sealer, part.Size, u.s.staged(part.id()))
		_, err = w.readFrom(content)
		if err = errors.Join(err, content.Close()); err != nil {
			w.giveUp()
			return err
		}
	}
	if err := w.end(); err != nil {
		return err
	}
	if u.r.offset() != u.r.Size {
		return fmt.Errorf("files: the parts of %s have %d bytes, not %d", u.r.id(), u.r.offset(), u.r.Size)
	}
	return u.finish(ctx)
}

// AsLengthDeclarableUpload implements [handler.LengthDeferrerDataStore].
func (t tusStore) AsLengthDeclarableUpload(u handler.Upload) handler.LengthDeclarableUpload {
	return u.(*upload)
}

// DeclareLength implements [handler.LengthDeclarableUpload].
func (u *upload) DeclareLength(ctx context.Context, length int64) error {
	if err := u.s.reserve(ctx, u.r.id(), length); err != nil {
		return tusError(err)
	}
	u.r.Size, u.r.Reserved, u.r.Deferred = length, length, false
	return tusError(u.s.saveRecord(u.r))
}

// otherHashError is content that is not what the client said.
type otherHashError struct{ is, want string }

// Error implements error.
func (e *otherHashError) Error() string {
	return "the content's BLAKE3 is " + e.is + " and not " + e.want + ", as Upload-Metadata says: send the file again"
}

// expiresHeader is when an upload ends, in the form of tus.
func expiresHeader(at time.Time) string { return at.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") }
