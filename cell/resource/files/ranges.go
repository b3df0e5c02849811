package files

import (
	"context"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// rangeTimeout bounds one question to a range: longer than a leader's change.
const rangeTimeout = 8 * time.Second

// ask sends a request to the range of an entity. It does not end with the
// client's request: what was begun for an upload is brought to its end.
func (s *Service) ask(ctx context.Context, of proto.EntityID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rangeTimeout)
	defer cancel()
	if _, ok := cellclient.AwaitRoute(ctx, s.deps.Directory.Routes, of.Range()); !ok {
		return nil, proto.Errorf(proto.CodeUnknownFile, "there is no user %s", of)
	}
	return s.deps.Ranges.Do(ctx, of.Range(), req)
}

// standing checks that the caller's login still counts where his range is
// served now.
func (s *Service) standing(ctx context.Context, c cellclient.Caller) error {
	reply, err := s.ask(ctx, c.User, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadUser{ReadUser: &cellpb.ReadUser{User: uint64(c.User)}}})
	if err != nil {
		return err
	}
	return cellclient.Standing(reply.GetUser(), c)
}

func errUnknownFile(id proto.FileID) error {
	return proto.Errorf(proto.CodeUnknownFile, "there is no file %s for you: whoever is not its owner names the message that carries it", id)
}

// readFile reads what the owner's range knows of a file. With no file and no
// upload of that number: an answer without one.
func (s *Service) readFile(ctx context.Context, id proto.FileID) (*cellpb.Files, error) {
	reply, err := s.ask(ctx, id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadFiles{
		ReadFiles: &cellpb.ReadFiles{User: uint64(id.Owner), Number: id.Number},
	}})
	return reply.GetFiles(), err
}

func fileOf(f *cellpb.Files) *cellpb.StoredFile {
	if rows := f.GetFiles(); len(rows) == 1 {
		return rows[0].File
	}
	return nil
}

func uploadOf(f *cellpb.Files) *cellpb.OpenUpload {
	if rows := f.GetFiles(); len(rows) == 1 {
		return rows[0].Upload
	}
	return nil
}

// mayRead tells whether the caller may read a file now: it is his, or the
// message he names carries it in a thread that he is a member of, as the
// thread's owner range says.
func (s *Service) mayRead(ctx context.Context, c cellclient.Caller, id proto.FileID, at place) error {
	if id.Owner == c.User {
		return nil
	}
	thread, err := proto.ParseThreadID(at.Thread)
	if err != nil || at.Seq == 0 || at.Seq == ^uint64(0) {
		return errUnknownFile(id)
	}
	reply, err := s.ask(ctx, thread.Owner(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadThread{ReadThread: &cellpb.ReadThread{
		Thread: at.Thread, User: uint64(c.User), Before: at.Seq + 1, Limit: 1,
	}}})
	switch proto.CodeOf(err) {
	case proto.CodeOK:
	case proto.CodeNotMember, proto.CodeBadRequest, proto.CodeUnknownThread, proto.CodeUnknownUser, proto.CodeUnknownFile:
		return errUnknownFile(id)
	default:
		return err
	}
	events := reply.GetEvents()
	if len(events.GetRefs()) != 1 || events.Refs[0].Seq != at.Seq || events.Events[0].GetFile().GetFile() != id.String() {
		return errUnknownFile(id)
	}
	return nil
}

// removeFile ends an upload or removes a file in the owner's range. With
// unsentBefore it does so only if it was not sent, see [cellpb.RemoveFile].
func (s *Service) removeFile(ctx context.Context, id proto.FileID, unsentBefore time.Time) (*cellpb.FileRow, error) {
	c := &cellpb.RemoveFile{User: uint64(id.Owner), Number: id.Number}
	if !unsentBefore.IsZero() {
		c.UnsentBeforeMs = max(1, unsentBefore.UnixMilli())
	}
	reply, err := s.ask(ctx, id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_RemoveFile{RemoveFile: c}})
	return reply.GetResult().GetFile(), err
}

// reserve sets what an upload reserves.
func (s *Service) reserve(ctx context.Context, id proto.FileID, size int64) error {
	_, err := s.ask(ctx, id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReserveFile{ReserveFile: &cellpb.ReserveFile{
		User: uint64(id.Owner), Number: id.Number, Size: uint64(size), Quota: uint64(s.cfg.QuotaBytes),
	}}})
	return err
}
