package login

import (
	"context"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Users applies CreateUser in ranges; it is an accounts.UserCreator.
type Users struct {
	Ranges Ranges
}

// CreateUser takes the range's next id for an account key; the same key gets
// the same id again.
func (u Users) CreateUser(ctx context.Context, r proto.RangeID, key [16]byte, name string) (proto.EntityID, error) {
	reply, err := u.Ranges.Do(ctx, r, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_CreateUser{
		CreateUser: &cellpb.CreateUser{AccountKey: key[:], Name: name},
	}})
	if err != nil {
		return 0, err
	}
	return proto.EntityID(reply.GetResult().GetUser()), nil
}
