package state

import (
	"bytes"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Files of a user belong to his range: their metadata, what they take of his
// quota, and which messages carry them. The content lies elsewhere. An upload
// is an entry of the usage row and becomes a file, with a row of its own, by
// one command; so there is never a row of a file that is not complete.

// openUploadKept is how much longer than [proto.UploadLifetime] a range
// remembers an upload: whoever writes it ends it first.
const openUploadKept = proto.UploadLifetime + 24*time.Hour

// claimInterval is how often a claim is written anew.
const claimInterval = time.Hour

// fileCommand applies a command about files; nil: it is none.
func (m *Machine) fileCommand(c *cellpb.Command) *cellpb.Result {
	switch body := c.Body.(type) {
	case *cellpb.Command_CreateFile:
		return m.createFile(body.CreateFile)
	case *cellpb.Command_ReserveFile:
		return m.reserveFile(body.ReserveFile)
	case *cellpb.Command_CompleteFile:
		return m.completeFile(body.CompleteFile)
	case *cellpb.Command_RemoveFile:
		return m.removeFile(body.RemoveFile)
	case *cellpb.Command_ClaimFile:
		return m.claimFile(body.ClaimFile)
	case *cellpb.Command_PlaceFile:
		return m.placeFile(body.PlaceFile)
	}
	return nil
}

// fileUsage reads what the files of a user of this range take; false: there is
// no such user here.
func (m *Machine) fileUsage(user proto.EntityID) (*cellpb.FileUsage, bool) {
	usage := new(cellpb.FileUsage)
	if !m.rng.Contains(user) || !m.user(user).exists {
		return usage, false
	}
	m.get(engine.EntityKey(user, engine.TagFileUsage), usage)
	return usage, true
}

func (m *Machine) putFileUsage(user proto.EntityID, usage *cellpb.FileUsage) {
	m.put(engine.EntityKey(user, engine.TagFileUsage), usage)
}

// dropUploads takes uploads out of the usage, with what they reserve.
func dropUploads(usage *cellpb.FileUsage, drop func(*cellpb.OpenUpload) bool) {
	usage.Uploads = slices.DeleteFunc(usage.Uploads, func(u *cellpb.OpenUpload) bool {
		if !drop(u) {
			return false
		}
		usage.Bytes -= min(usage.Bytes, u.Size)
		return true
	})
}

func findUpload(usage *cellpb.FileUsage, number uint64) *cellpb.OpenUpload {
	for _, u := range usage.Uploads {
		if u.Number == number {
			return u
		}
	}
	return nil
}

// checkQuota refuses size more bytes than the user may have. free is what ends
// together with what asks.
func checkQuota(usage *cellpb.FileUsage, size, free, quota uint64) *cellpb.Result {
	if size > proto.FileBytesMax {
		return refusef(proto.CodeTooBig, "a file has at most %d bytes", int64(proto.FileBytesMax))
	}
	if taken := usage.Bytes - min(usage.Bytes, free); taken+size > quota {
		return refusef(proto.CodeOverQuota, "your files take %d of %d bytes: %d more do not fit, remove some first", taken, quota, size)
	}
	return nil
}

func (m *Machine) createFile(c *cellpb.CreateFile) *cellpb.Result {
	user := proto.EntityID(c.User)
	usage, exists := m.fileUsage(user)
	switch {
	case !exists:
		return refusef(proto.CodeUnknownUser, "there is no user %s", user)
	case len(c.Nonce) != 16:
		return refusef(proto.CodeBadRequest, "the nonce of an upload has 16 bytes, not %d", len(c.Nonce))
	}
	for _, u := range usage.Uploads {
		if bytes.Equal(u.Nonce, c.Nonce) {
			return &cellpb.Result{File: &cellpb.FileRow{User: c.User, Number: u.Number, Upload: u}, Repeated: true}
		}
	}
	expired := m.state.TimeMs - openUploadKept.Milliseconds()
	dropUploads(usage, func(u *cellpb.OpenUpload) bool { return u.CreatedMs < expired })
	var free uint64
	for _, number := range slices.Compact(slices.Sorted(slices.Values(c.Parts))) {
		part := findUpload(usage, number)
		if part == nil {
			return refusef(proto.CodeUnknownFile, "there is no upload %s to join", proto.FileID{Owner: user, Number: number})
		}
		free += part.Size
	}
	if refusal := checkQuota(usage, c.Size, free, c.Quota); refusal != nil {
		return refusal
	}
	if len(usage.Uploads) >= proto.UploadsMax {
		return refusef(proto.CodeTooMany, "you have %d uploads under way: finish or end some first", len(usage.Uploads))
	}
	usage.LastNumber++
	usage.Bytes += c.Size
	u := &cellpb.OpenUpload{Number: usage.LastNumber, Nonce: c.Nonce, Size: c.Size, CreatedMs: m.state.TimeMs}
	usage.Uploads = append(usage.Uploads, u)
	m.putFileUsage(user, usage)
	return &cellpb.Result{File: &cellpb.FileRow{User: c.User, Number: u.Number, Upload: u}, TimeMs: m.state.TimeMs}
}

func (m *Machine) reserveFile(c *cellpb.ReserveFile) *cellpb.Result {
	user := proto.EntityID(c.User)
	usage, _ := m.fileUsage(user)
	u := findUpload(usage, c.Number)
	if u == nil {
		return refusef(proto.CodeUnknownFile, "there is no upload %s", proto.FileID{Owner: user, Number: c.Number})
	}
	if refusal := checkQuota(usage, c.Size, u.Size, c.Quota); refusal != nil && c.Size > u.Size {
		return refusal
	}
	usage.Bytes += c.Size - min(usage.Bytes, u.Size)
	u.Size = c.Size
	m.putFileUsage(user, usage)
	return &cellpb.Result{File: &cellpb.FileRow{User: c.User, Number: u.Number, Upload: u}}
}

func (m *Machine) completeFile(c *cellpb.CompleteFile) *cellpb.Result {
	user := proto.EntityID(c.User)
	id := proto.FileID{Owner: user, Number: c.Number}
	usage, exists := m.fileUsage(user)
	if !exists {
		return refusef(proto.CodeUnknownUser, "there is no user %s", user)
	}
	file := c.File
	have := new(cellpb.StoredFile)
	if m.get(engine.FileKey(user, c.Number), have) {
		if have.Blob != file.GetBlob() {
			return refusef(proto.CodeBadRequest, "file %s is complete already", id)
		}
		return &cellpb.Result{File: &cellpb.FileRow{User: c.User, Number: c.Number, File: have}, Repeated: true}
	}
	u := findUpload(usage, c.Number)
	switch {
	case u == nil:
		return refusef(proto.CodeUnknownFile, "there is no upload %s: it was ended or took too long", id)
	case file.GetSize() != u.Size:
		return refusef(proto.CodeBadRequest, "upload %s has %d bytes, not %d", id, u.Size, file.GetSize())
	case len(file.Name) > proto.FileNameBytesMax || !utf8.ValidString(file.Name) || len(file.Type) > proto.FileTypeBytesMax ||
		len(file.Blake3) != 32 || file.Blob == "" || file.Cell == "" || len(file.Key) > 256:
		return refusef(proto.CodeBadRequest, "the record of file %s is not whole", id)
	}
	file.CompletedMs, file.ClaimedMs, file.References = m.state.TimeMs, 0, 0
	dropUploads(usage, func(o *cellpb.OpenUpload) bool { return o == u || slices.Contains(c.Parts, o.Number) })
	usage.Bytes += file.Size
	usage.Files++
	m.putFileUsage(user, usage)
	m.put(engine.FileKey(user, c.Number), file)
	return &cellpb.Result{File: &cellpb.FileRow{User: c.User, Number: c.Number, File: file}, TimeMs: m.state.TimeMs}
}

// removeFile gives back what it has removed; nothing, if there was nothing.
func (m *Machine) removeFile(c *cellpb.RemoveFile) *cellpb.Result {
	user := proto.EntityID(c.User)
	usage, _ := m.fileUsage(user)
	row := &cellpb.FileRow{User: c.User, Number: c.Number}
	before := func(ms int64) bool { return c.UnsentBeforeMs == 0 || ms < c.UnsentBeforeMs }
	if u := findUpload(usage, c.Number); u != nil && before(u.CreatedMs) {
		row.Upload = u
		dropUploads(usage, func(o *cellpb.OpenUpload) bool { return o == u })
		m.putFileUsage(user, usage)
		return &cellpb.Result{File: row}
	}
	file := new(cellpb.StoredFile)
	if !m.get(engine.FileKey(user, c.Number), file) {
		return &cellpb.Result{File: row}
	}
	sent := file.ClaimedMs != 0 || file.References != 0
	if c.UnsentBeforeMs != 0 && (sent || !before(file.CompletedMs)) {
		return &cellpb.Result{File: row}
	}
	row.File = file
	usage.Bytes -= min(usage.Bytes, file.Size)
	usage.Files -= min(usage.Files, 1)
	m.putFileUsage(user, usage)
	m.remove(engine.FileKey(user, c.Number))
	m.removeRange(engine.FileSentSpan(user, c.Number))
	return &cellpb.Result{File: row}
}

// placeFile notes where the content of a file lies now. What a file is does not
// change by that.
func (m *Machine) placeFile(c *cellpb.PlaceFile) *cellpb.Result {
	user := proto.EntityID(c.User)
	id := proto.FileID{Owner: user, Number: c.Number}
	file, to := new(cellpb.StoredFile), c.File
	if !m.rng.Contains(user) || !m.get(engine.FileKey(user, c.Number), file) {
		return refusef(proto.CodeUnknownFile, "there is no file %s", id)
	}
	switch {
	case to.GetBlob() == "" || to.GetCell() == "" || len(to.GetKey()) > 256:
		return refusef(proto.CodeBadRequest, "the place of file %s is not whole", id)
	case file.Blob != c.FromBlob && file.Blob != to.Blob:
		return refusef(proto.CodeConflict, "the content of file %s is neither where it was nor where it was to be", id)
	}
	file.Cell, file.Node, file.Blob, file.KeyId, file.Key = to.Cell, to.Node, to.Blob, to.KeyId, to.Key
	m.put(engine.FileKey(user, c.Number), file)
	return &cellpb.Result{File: &cellpb.FileRow{User: c.User, Number: c.Number, File: file}}
}

func (m *Machine) claimFile(c *cellpb.ClaimFile) *cellpb.Result {
	user := proto.EntityID(c.User)
	file := new(cellpb.StoredFile)
	if !m.rng.Contains(user) || !m.get(engine.FileKey(user, c.Number), file) {
		return refusef(proto.CodeUnknownFile, "you have no file %s: upload it first", proto.FileID{Owner: user, Number: c.Number})
	}
	if file.ClaimedMs+claimInterval.Milliseconds() <= m.state.TimeMs {
		file.ClaimedMs = m.state.TimeMs
		m.put(engine.FileKey(user, c.Number), file)
	}
	return &cellpb.Result{File: &cellpb.FileRow{User: c.User, Number: c.Number, File: file}}
}

// referToFile counts a message that carries a file of a user of this range.
func (m *Machine) referToFile(user proto.EntityID, number uint64, thread proto.ThreadID, seq proto.Seq) {
	file := new(cellpb.StoredFile)
	if !m.get(engine.FileKey(user, number), file) {
		return // removed by its owner meanwhile
	}
	file.References++
	m.put(engine.FileKey(user, number), file)
	m.putRaw(engine.FileSentKey(user, number, thread, seq), []byte{})
}

// carriedFile is the number of the sender's file that a message carries, 0 if
// it carries none.
func carriedFile(sender proto.EntityID, event *cellpb.StoredEvent) uint64 {
	if event.GetFile() == nil {
		return 0
	}
	id, err := proto.ParseFileID(event.GetFile().File)
	if err != nil || id.Owner != sender {
		return 0
	}
	return id.Number
}

// checkFileBody refuses what cannot be a file in a message.
func checkFileBody(from proto.EntityID, f *clientpb.FileMessage) *cellpb.Result {
	id, err := proto.ParseFileID(f.File)
	_, known := clientpb.FileKind_name[int32(f.Kind)]
	switch {
	case err != nil:
		return refusef(proto.CodeBadRequest, "%v", err)
	case id.Owner != from:
		return refusef(proto.CodeUnknownFile, "file %s is not yours: upload it first", id)
	case !known:
		return refusef(proto.CodeBadRequest, "a file is shown as file, image, audio or video")
	case len(f.Thumbnail) > proto.ThumbnailBytesMax:
		return refusef(proto.CodeTooBig, "the thumbnail has %d bytes, the limit is %d", len(f.Thumbnail), proto.ThumbnailBytesMax)
	case len(f.Name) > proto.FileNameBytesMax || len(f.Type) > proto.FileTypeBytesMax || len(f.Blake3) != 32:
		return refusef(proto.CodeBadRequest, "the file in the message is not described whole")
	}
	return nil
}

// files reads one of a user's files or pages through all, the newest first.
func (v view) files(q *cellpb.ReadFiles) (*cellpb.Files, error) {
	user := proto.EntityID(q.User)
	out := &cellpb.Files{Usage: new(cellpb.FileUsage)}
	if _, err := read(v.r, engine.EntityKey(user, engine.TagFileUsage), out.Usage); err != nil {
		return nil, err
	}
	if q.Number != 0 {
		return out, v.file(user, q.Number, out)
	}
	span := engine.TableSpan(user, engine.TagFile)
	if q.Before != 0 {
		span.End = engine.FileKey(user, q.Before)
	}
	it, err := v.iter(span)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	limit := page(q.Limit)
	for ok := it.Last(); ok; ok = it.Prev() {
		if len(out.Files) == limit {
			out.More = true
			break
		}
		row := &cellpb.FileRow{User: q.User, Number: engine.LastNumber(it.Key()), File: new(cellpb.StoredFile)}
		if err := decode(it, row.File); err != nil {
			return nil, err
		}
		out.Files = append(out.Files, row)
	}
	return out, it.Error()
}

// file reads one file with the messages that carry it, or an upload.
func (v view) file(user proto.EntityID, number uint64, out *cellpb.Files) error {
	row := &cellpb.FileRow{User: uint64(user), Number: number, Upload: findUpload(out.Usage, number)}
	file := new(cellpb.StoredFile)
	found, err := read(v.r, engine.FileKey(user, number), file)
	if err != nil {
		return err
	}
	if found {
		row.File = file
	}
	if found || row.Upload != nil {
		out.Files = []*cellpb.FileRow{row}
	}
	it, err := v.iter(engine.FileSentSpan(user, number))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if len(out.Sent) == proto.PageMax {
			out.More = true
			break
		}
		if thread, seq, ok := engine.ParseFileSentKey(it.Key()); ok {
			out.Sent = append(out.Sent, &cellpb.EventRef{Thread: thread.String(), Seq: uint64(seq)})
		}
	}
	return it.Error()
}
