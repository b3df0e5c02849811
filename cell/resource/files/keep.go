package files

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"
	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
)

// Keep makes a file of user of what lies at path on this node's disk: a
// recording. It is read twice. A file that nothing carries is collected after
// [Config.Grace], as any other.
//
// Errors: [proto.CodeOverQuota], [proto.CodeTooBig]; others may pass.
func (s *Service) Keep(ctx context.Context, user proto.EntityID, name, path string) (proto.FileID, error) {
	f, err := os.Open(path)
	if err != nil {
		return proto.FileID{}, fmt.Errorf("files: keep: %w", err)
	}
	defer f.Close()
	sum := blake3.New(32, nil)
	size, err := io.Copy(sum, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return proto.FileID{}, fmt.Errorf("files: keep: %w", err)
	}
	// The hash is named, so that nothing else becomes this file, whoever guesses
	// the upload's address meanwhile.
	ctx = context.WithValue(ctx, askedKey{}, &asked{caller: cellclient.Caller{User: user}})
	u, err := s.newUpload(ctx, handler.FileInfo{Size: size, MetaData: handler.MetaData{
		"filename": name, "blake3": hex.EncodeToString(sum.Sum(nil)),
	}})
	if err != nil {
		return proto.FileID{}, err
	}
	n, err := u.writeChunk(ctx, f)
	if err == nil && n != size {
		err = fmt.Errorf("files: keep: %s has changed while it was read", path)
	}
	if err == nil {
		err = u.finish(ctx)
	}
	if err != nil {
		end := context.WithoutCancel(ctx)
		_, removeErr := s.removeFile(end, u.r.id(), time.Time{})
		s.logFailed(u.r.id(), errors.Join(removeErr, s.dropUpload(u.r.id())))
		return proto.FileID{}, err
	}
	return u.r.id(), nil
}
