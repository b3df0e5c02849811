package controlclient

import (
	"context"

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
	err = a.each(func(c controlpb.AccountsClient) (err error) {
		out, err = c.Login(ctx, in, opts...)
		return err
	})
	return out, err
}

// Logout ends the device a token speaks for; repeating it is harmless.
func (a *Accounts) Logout(ctx context.Context, in *controlpb.LogoutRequest, opts ...grpc.CallOption) (out *controlpb.LogoutReply, err error) {
	err = a.each(func(c controlpb.AccountsClient) (err error) {
		out, err = c.Logout(ctx, in, opts...)
		return err
	})
	return out, err
}

// FindUser finds a user by exact name.
func (a *Accounts) FindUser(ctx context.Context, in *controlpb.FindUserRequest, opts ...grpc.CallOption) (out *controlpb.FindUserReply, err error) {
	err = a.each(func(c controlpb.AccountsClient) (err error) {
		out, err = c.FindUser(ctx, in, opts...)
		return err
	})
	return out, err
}

// each calls do with one control plane after the other until one answers.
func (a *Accounts) each(do func(controlpb.AccountsClient) error) error {
	var last error = proto.Errorf(proto.CodeUnavailable, "no control plane is known here yet: try again")
	for _, n := range a.viewer.View().ByRole("controlplane") {
		conn, err := a.dialer.Conn(n.ID)
		if err != nil {
			last = proto.AsError(err)
			continue
		}
		last = FromStatus(do(controlpb.NewAccountsClient(conn)))
		if proto.CodeOf(last) != proto.CodeUnavailable {
			return last
		}
	}
	return last
}
