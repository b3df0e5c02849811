package controlclient

import (
	"context"

	"google.golang.org/grpc"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// SetupTOTP makes a secret that EnableTOTP can turn on. Repeating it replaces
// the one before.
func (a *Accounts) SetupTOTP(ctx context.Context, in *controlpb.TOTPRequest, opts ...grpc.CallOption) (out *controlpb.SetupTOTPReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.SetupTOTP(ctx, in, opts...)
		return err
	})
	return out, err
}

// EnableTOTP turns the second factor on. A code works once, so a repetition
// whose first answer was lost is refused.
func (a *Accounts) EnableTOTP(ctx context.Context, in *controlpb.TOTPRequest, opts ...grpc.CallOption) (out *controlpb.EnableTOTPReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.EnableTOTP(ctx, in, opts...)
		return err
	})
	return out, err
}

// DisableTOTP turns the second factor off.
func (a *Accounts) DisableTOTP(ctx context.Context, in *controlpb.TOTPRequest, opts ...grpc.CallOption) (out *controlpb.DisableTOTPReply, err error) {
	err = a.each(ctx, func(ctx context.Context, c controlpb.AccountsClient) (err error) {
		out, err = c.DisableTOTP(ctx, in, opts...)
		return err
	})
	return out, err
}
