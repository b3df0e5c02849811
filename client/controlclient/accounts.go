package controlclient

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// Dialer gives the connection to a node; cellclient.Dialer is one.
type Dialer interface {
	Conn(node proto.NodeID) (*grpc.ClientConn, error)
}

// Viewer gives the cluster as last heard of; [Client] is one.
type Viewer interface {
	View() *View
}

// Accounts calls the account service of whichever control plane answers. It
// is a controlpb.AccountsClient whose errors are *proto.Error.
type Accounts struct {
	viewer Viewer
	dialer Dialer
}

var _ controlpb.AccountsClient = (*Accounts)(nil)

// NewAccounts makes a caller over connections that others keep.
func NewAccounts(v Viewer, d Dialer) *Accounts { return &Accounts{viewer: v, dialer: d} }

// Login is repeated at the next control plane when one cannot be reached; the
// nonce of the request makes that harmless.
func (a *Accounts) Login(ctx context.Context, in *controlpb.LoginRequest, opts ...grpc.CallOption) (out *controlpb.LoginReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.Login(ctx, in, opts...)
		return err
	})
	return out, err
}

// Logout ends the device a token speaks for; repeating it is harmless.
func (a *Accounts) Logout(ctx context.Context, in *controlpb.LogoutRequest, opts ...grpc.CallOption) (out *controlpb.LogoutReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.Logout(ctx, in, opts...)
		return err
	})
	return out, err
}

// FindUser finds a user by exact name.
func (a *Accounts) FindUser(ctx context.Context, in *controlpb.FindUserRequest, opts ...grpc.CallOption) (out *controlpb.FindUserReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.FindUser(ctx, in, opts...)
		return err
	})
	return out, err
}

// FindPeople finds users by the beginning of their name.
func (a *Accounts) FindPeople(ctx context.Context, in *controlpb.FindPeopleRequest, opts ...grpc.CallOption) (out *controlpb.FindPeopleReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.FindPeople(ctx, in, opts...)
		return err
	})
	return out, err
}

// attemptTimeout bounds the wait for one control plane when there is another
// to ask: one that is asleep must not use up the caller's whole time.
const attemptTimeout = 4 * time.Second

// each calls do with one control plane after the other until one answers.
func (a *Accounts) each(ctx context.Context, do func(context.Context, controlpb.AccountsClient) error) error {
	var last error = proto.Errorf(proto.CodeUnavailable, "no control plane is known here yet: try again")
	nodes := a.viewer.View().ByRole("controlplane")
	for i, n := range nodes {
		conn, err := a.dialer.Conn(n.ID)
		if err != nil {
			last = proto.AsError(err)
			continue
		}
		attempt, cancel := ctx, context.CancelFunc(func() {})
		if i < len(nodes)-1 {
			attempt, cancel = context.WithTimeout(ctx, attemptTimeout)
		}
		last = FromStatus(do(attempt, controlpb.NewAccountsClient(conn)))
		cancel()
		if proto.CodeOf(last) != proto.CodeUnavailable || ctx.Err() != nil {
			return last
		}
	}
	return last
}
