package controlclient

import (
	"context"

	"google.golang.org/grpc"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// SendCode has a code mailed. The nonce lets it be repeated at the next control
// plane at once.
func (a *Accounts) SendCode(ctx context.Context, in *controlpb.SendCodeRequest, opts ...grpc.CallOption) (out *controlpb.SendCodeReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.SendCode(ctx, in, opts...)
		return err
	})
	return out, err
}

// Register makes an account. Repeating it with the same nonce gives the same one.
func (a *Accounts) Register(ctx context.Context, in *controlpb.RegisterRequest, opts ...grpc.CallOption) (out *controlpb.RegisterReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.Register(ctx, in, opts...)
		return err
	})
	return out, err
}

// CheckAccount tells whether an account has the name and the address.
func (a *Accounts) CheckAccount(ctx context.Context, in *controlpb.CheckAccountRequest, opts ...grpc.CallOption) (out *controlpb.CheckAccountReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.CheckAccount(ctx, in, opts...)
		return err
	})
	return out, err
}

// ResetPassword sets a password and ends every session. Repeating it with the
// same nonce is harmless.
func (a *Accounts) ResetPassword(ctx context.Context, in *controlpb.ResetPasswordRequest, opts ...grpc.CallOption) (out *controlpb.ResetPasswordReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.ResetPassword(ctx, in, opts...)
		return err
	})
	return out, err
}

// Refresh gives a new token. Repeating it is harmless as long as the new refresh
// token has not been used.
func (a *Accounts) Refresh(ctx context.Context, in *controlpb.RefreshRequest, opts ...grpc.CallOption) (out *controlpb.RefreshReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.Refresh(ctx, in, opts...)
		return err
	})
	return out, err
}
