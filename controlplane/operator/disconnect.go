package operator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/accounts"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// disconnectedReason is what clients are told.
const disconnectedReason = "an operator closed this connection"

// DisconnectUser closes the connections of a user, who may come back at once;
// with EndDevices every login of the user ends, and there is no coming back
// without the password. With DryRun it only counts.
func (s *Service) DisconnectUser(ctx context.Context, req *controlpb.DisconnectUserRequest) (*controlpb.DisconnectUserReply, error) {
	reply, err := s.disconnect(ctx, req)
	if !req.DryRun {
		what := req.User
		if req.EndDevices {
			what += ", logins ended"
		}
		s.audit(ctx, req.By, "users disconnect", what, err)
	}
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	return reply, nil
}

func (s *Service) disconnect(ctx context.Context, req *controlpb.DisconnectUserRequest) (*controlpb.DisconnectUserReply, error) {
	a, err := s.account(ctx, req.User)
	if errors.Is(err, accounts.ErrNotFound) || err == nil && a.State != accounts.StateActive {
		err = proto.Errorf(proto.CodeUnknownUser, "there is no user %.40q", req.User)
	}
	if err != nil {
		return nil, err
	}
	before, err := s.ShowUser(ctx, &controlpb.ShowUserRequest{User: a.User.String()})
	if err != nil {
		return nil, err
	}
	reply := &controlpb.DisconnectUserReply{User: uint64(a.User), Name: a.Name, Closed: uint64(len(before.Sessions))}
	for _, d := range before.Devices {
		if req.EndDevices && !d.Ended {
			reply.EndedDevices++
		}
	}
	if req.DryRun {
		return reply, nil
	}
	if req.EndDevices {
		nonce := make([]byte, 16)
		_, _ = rand.Read(nonce) // never fails
		_, err := s.Ranges.Do(ctx, a.User.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_RaiseAuthority{
			RaiseAuthority: &cellpb.RaiseAuthority{User: uint64(a.User), Nonce: nonce},
		}})
		if err != nil {
			return nil, fmt.Errorf("the logins of %s are not known to have ended: %w", a.Name, err)
		}
	} else {
		done, err := s.Ranges.Do(ctx, a.User.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_CloseSessions{
			CloseSessions: &cellpb.CloseSessions{User: uint64(a.User), Message: disconnectedReason},
		}})
		if err != nil {
			return nil, err
		}
		reply.Closed = done.GetResult().GetClosed()
	}
	s.Logger.Info("a user was disconnected", "user", a.User, "connections", reply.Closed, "logins", reply.EndedDevices)
	return reply, nil
}
