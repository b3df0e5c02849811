package rights

import (
	"context"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// rangeTimeout bounds one question to a range: longer than a leader's change.
const rangeTimeout = 8 * time.Second

// ask sends a request to the range of an entity.
func (s *Service) ask(ctx context.Context, of proto.EntityID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	ctx, cancel := context.WithTimeout(ctx, rangeTimeout)
	defer cancel()
	if _, ok := cellclient.AwaitRoute(ctx, s.deps.Directory.Routes, of.Range()); !ok {
		return nil, proto.Errorf(proto.CodeUnknownUser, "there is no user %s", of)
	}
	return s.deps.Ranges.Do(ctx, of.Range(), req)
}

// row reads a livestream in its owner's range.
func (s *Service) row(ctx context.Context, id proto.LiveID) (*cellpb.StoredLive, error) {
	reply, err := s.ask(ctx, id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadLive{
		ReadLive: &cellpb.ReadLive{User: uint64(id.Owner), Number: id.Number},
	}})
	if proto.CodeOf(err) == proto.CodeUnknownUser {
		return nil, errNoSuch(id)
	}
	if err != nil {
		return nil, err
	}
	if reply.GetLive().GetLive() == nil {
		return nil, errNoSuch(id)
	}
	return reply.GetLive().GetLive(), nil
}

// member asks the thread's owner whether a user takes part in it now.
func (s *Service) member(ctx context.Context, thread string, user proto.EntityID) error {
	id, err := proto.ParseThreadID(thread)
	if err != nil {
		return proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	if !id.Has(user) {
		return proto.Errorf(proto.CodeNotMember, "you are not a member of thread %s", thread)
	}
	_, err = s.ask(ctx, id.Owner(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadMembers{
		ReadMembers: &cellpb.ReadMembers{Thread: thread, User: uint64(user)},
	}})
	return err
}

// mayWatch hides from strangers that there is a livestream.
func (s *Service) mayWatch(ctx context.Context, id proto.LiveID, row *cellpb.StoredLive, user proto.EntityID) error {
	if id.Owner == user {
		return nil // for him there is one, whoever else may watch
	}
	err := s.member(ctx, row.Thread, user)
	switch proto.CodeOf(err) {
	case proto.CodeNotMember, proto.CodeBadRequest:
		return errNoSuch(id)
	}
	return err
}

// standing checks that a login still counts where the user's range is served
// now.
func (s *Service) standing(ctx context.Context, c cellclient.Caller) error {
	reply, err := s.ask(ctx, c.User, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadUser{ReadUser: &cellpb.ReadUser{User: uint64(c.User)}}})
	if err != nil {
		return err
	}
	return cellclient.Standing(reply.GetUser(), c)
}
