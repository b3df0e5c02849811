package files

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"
	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/internal/picture"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// An avatar is a file of its owner that holds all its sizes: avatarMagic, the
// length of each (4 bytes, big-endian), then the JPEGs. Only this package makes
// one, and the profile names it.
const avatarMagic = "WAGGLAV1"

// avatarBytesMax bounds the picture an avatar is made of: a photo of a phone.
const avatarBytesMax = 16 << 20

// avatarSizes are the sides of the squares, in pixels; it is never changed.
var avatarSizes = [...]int{48, 96, 256, 512}

// avatarHeadBytes is what stands before the pictures.
const avatarHeadBytes = len(avatarMagic) + 4*len(avatarSizes)

// avatarPictureMax bounds one of the pictures when it is read: far above a JPEG
// of the largest size.
const avatarPictureMax = 2 << 20

// setAvatar makes the picture in the body the caller's avatar, or with DELETE
// none.
func (s *Service) setAvatar(w http.ResponseWriter, r *http.Request) {
	caller, err := s.caller(r)
	number := uint64(0)
	if err == nil && r.Method == http.MethodPost {
		number, err = s.storeAvatar(w, r, caller)
	}
	var reply *cellpb.RelayReply
	if err == nil {
		reply, err = s.ask(r.Context(), caller.User, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_SetAvatar{
			SetAvatar: &cellpb.SetAvatar{User: uint64(caller.User), Number: number},
		}})
	}
	// A file whose command failed was never sent: it is collected.
	if err != nil {
		writeProblem(w, err)
		return
	}
	writeJSON(w, map[string]string{"avatar": reply.GetResult().GetProfile().GetAvatar()})
}

// storeAvatar makes a file of the picture in the body and gives its number.
func (s *Service) storeAvatar(w http.ResponseWriter, r *http.Request, caller cellclient.Caller) (uint64, error) {
	crop, err := parseCrop(r.URL.Query().Get("crop"))
	if err != nil {
		return 0, err
	}
	t, end, err := s.limits.begin(r.Context(), caller.User)
	if err != nil {
		return 0, err
	}
	defer end()
	raw, err := io.ReadAll(limitedReader{http.MaxBytesReader(w, r.Body, avatarBytesMax), t})
	if _, big := errors.AsType[*http.MaxBytesError](err); big {
		return 0, proto.Errorf(proto.CodeTooBig, "a picture for an avatar has at most %d bytes", avatarBytesMax)
	}
	if err != nil {
		return 0, proto.Errorf(proto.CodeUnavailable, "the picture did not come whole: send it again")
	}
	content, err := s.drawAvatar(r.Context(), raw, crop)
	if err != nil {
		return 0, err
	}
	// The hash is named, so that nothing else becomes this file, whoever guesses
	// the upload's address meanwhile.
	sum := blake3.Sum256(content)
	ctx := context.WithValue(context.WithoutCancel(r.Context()), askedKey{}, &asked{caller: caller})
	u, err := s.newUpload(ctx, handler.FileInfo{Size: int64(len(content)), MetaData: handler.MetaData{
		"filename": "avatar", "blake3": hex.EncodeToString(sum[:]),
	}})
	if err != nil {
		return 0, err
	}
	if _, err = u.writeChunk(ctx, bytes.NewReader(content)); err == nil {
		err = u.finish(ctx)
	}
	if err != nil {
		_, removeErr := s.removeFile(ctx, u.r.id(), time.Time{})
		s.logFailed(u.r.id(), errors.Join(removeErr, s.dropUpload(u.r.id())))
		return 0, err
	}
	return u.r.Number, nil
}

// drawAvatar decodes a picture, one at a time, for each may take
// [picture.MemoryMax].
func (s *Service) drawAvatar(ctx context.Context, raw []byte, crop image.Rectangle) ([]byte, error) {
	select {
	case s.drawing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.drawing }()
	img, err := picture.Decode(raw)
	if err != nil {
		return nil, proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	part, err := picture.Square(img, crop)
	if err != nil {
		return nil, proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	out := append(make([]byte, 0, 128<<10), avatarMagic...)
	var pictures []byte
	for _, side := range avatarSizes {
		one, err := picture.JPEG(img, part, image.Pt(side, side))
		if err != nil {
			return nil, err
		}
		out = binary.BigEndian.AppendUint32(out, uint32(len(one)))
		pictures = append(pictures, one...)
	}
	return append(out, pictures...), nil
}

// parseCrop reads X,Y,W,H; nothing is the whole picture.
func parseCrop(text string) (image.Rectangle, error) {
	var x, y, w, h int
	if text == "" {
		return image.Rectangle{}, nil
	}
	var rest string
	n, _ := fmt.Sscanf(text, "%d,%d,%d,%d%s", &x, &y, &w, &h, &rest)
	if n != 4 || x < 0 || y < 0 || w < 1 || h < 1 || max(x, y, w, h) > picture.SideMax {
		return image.Rectangle{}, proto.Errorf(proto.CodeBadRequest, "crop is X,Y,W,H in pixels inside the picture, as in 10,0,200,200")
	}
	return image.Rect(x, y, x+w, y+h), nil
}

// avatar serves one size of somebody's avatar.
func (s *Service) avatar(w http.ResponseWriter, r *http.Request) {
	ask, err := s.reading(r)
	size := 1 // of avatarSizes
	if text := r.URL.Query().Get("size"); err == nil && text != "" {
		size = -1
		for i, side := range avatarSizes {
			if text == strconv.Itoa(side) {
				size = i
			}
		}
		if size < 0 {
			err = proto.Errorf(proto.CodeBadRequest, "an avatar has the sizes %v", avatarSizes)
		}
	}
	var file *cellpb.StoredFile
	if err == nil {
		file, err = s.avatarFile(r.Context(), ask.id)
	}
	if err != nil {
		writeProblem(w, err)
		return
	}
	if node := s.elsewhere(file); node != "" {
		s.passAvatar(w, r, ask, node)
		return
	}
	raw, err := s.readAvatar(r.Context(), file, size)
	if err != nil {
		s.log.Error("an avatar cannot be read", "file", ask.id.String(), "err", err)
		writeProblem(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "image/jpeg")
	h.Set("Etag", fmt.Sprintf(`"%s-%d"`, ask.id, avatarSizes[size]))
	h.Set("Cache-Control", "private, max-age=86400, immutable") // another avatar has another id
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	http.ServeContent(w, r, "", time.UnixMilli(file.CompletedMs), bytes.NewReader(raw))
}

// avatarFile finds a file that is its owner's avatar now.
func (s *Service) avatarFile(ctx context.Context, id proto.FileID) (*cellpb.StoredFile, error) {
	reply, err := s.ask(ctx, id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadUser{ReadUser: &cellpb.ReadUser{User: uint64(id.Owner)}}})
	if err != nil {
		return nil, err
	}
	if reply.GetUser().GetProfile().GetAvatar() != id.String() {
		return nil, errUnknownFile(id)
	}
	known, err := s.readFile(ctx, id)
	file := fileOf(known)
	if err == nil && file == nil {
		err = errUnknownFile(id)
	}
	return file, err
}

// readAvatar reads one of the pictures.
func (s *Service) readAvatar(ctx context.Context, file *cellpb.StoredFile, size int) ([]byte, error) {
	content, err := s.openFile(ctx, file)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	head := make([]byte, avatarHeadBytes)
	if _, err := io.ReadFull(content, head); err != nil || string(head[:len(avatarMagic)]) != avatarMagic {
		return nil, errors.Join(fmt.Errorf("files: the file is no avatar"), err)
	}
	at := int64(avatarHeadBytes)
	length := func(i int) int64 { return int64(binary.BigEndian.Uint32(head[len(avatarMagic)+4*i:])) }
	for i := range size {
		at += length(i)
	}
	if length(size) > avatarPictureMax {
		return nil, fmt.Errorf("files: the file is no avatar")
	}
	if _, err := content.Seek(at, io.SeekStart); err != nil {
		return nil, err
	}
	raw := make([]byte, length(size))
	_, err = io.ReadFull(content, raw)
	return raw, err
}

// passAvatar has the node answer that has the file.
func (s *Service) passAvatar(w http.ResponseWriter, r *http.Request, ask reading, node proto.NodeID) {
	hops := cellclient.Hops(r.Header) + 1
	if hops > hopsMax {
		writeProblem(w, proto.Errorf(proto.CodeUnavailable, "the file %s is just changing its place: try again", ask.id))
		return
	}
	s.deps.Proxy.Forward(w, r, cellclient.Forwarding{Node: node, Caller: &ask.caller, Scheme: scheme(r), Hops: hops, Failed: writeProblem})
}
