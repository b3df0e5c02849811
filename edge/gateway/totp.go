package gateway

import (
	"context"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// totpBytesMax bounds a code of a second factor, recovery codes too.
const totpBytesMax = 64

// The endpoints of the second factor take the token of a login in the header
// "Authorization: Bearer TOKEN".

type totpSetupRequest struct{}

type totpSetupReply struct {
	Error  int    `json:"error"`
	Secret string `json:"secret"`
	URL    string `json:"otpauth_url"`
}

func (g *gateway) totpSetup(ctx context.Context, _ *totpSetupRequest, c caller) (*totpSetupReply, error) {
	reply, err := g.accounts.SetupTOTP(ctx, &controlpb.TOTPRequest{Token: c.token, Address: c.address})
	if err != nil {
		return nil, err
	}
	return &totpSetupReply{Secret: reply.Secret, URL: reply.Url}, nil
}

type totpCodeRequest struct {
	Code string `json:"code"`
}

type totpEnableReply struct {
	Error         int      `json:"error"`
	RecoveryCodes []string `json:"recovery_codes"`
}

func (g *gateway) totpEnable(ctx context.Context, in *totpCodeRequest, c caller) (*totpEnableReply, error) {
	if err := check(field{"code", in.Code, totpBytesMax}); err != nil {
		return nil, err
	}
	reply, err := g.accounts.EnableTOTP(ctx, &controlpb.TOTPRequest{Token: c.token, Code: in.Code, Address: c.address})
	if err != nil {
		return nil, err
	}
	return &totpEnableReply{RecoveryCodes: reply.RecoveryCodes}, nil
}

type totpDisableReply struct {
	Error int `json:"error"`
}

func (g *gateway) totpDisable(ctx context.Context, in *totpCodeRequest, c caller) (*totpDisableReply, error) {
	if err := check(field{"code", in.Code, totpBytesMax}); err != nil {
		return nil, err
	}
	_, err := g.accounts.DisableTOTP(ctx, &controlpb.TOTPRequest{Token: c.token, Code: in.Code, Address: c.address})
	if err != nil {
		return nil, err
	}
	return &totpDisableReply{}, nil
}

// totpEndpoints are the paths of the second factor.
func (g *gateway) totpEndpoints() []endpoint {
	return []endpoint{
		route(g, "/totp/setup", g.totpSetup, errorUnavailable, errorWrongCredentials),
		route(g, "/totp/enable", g.totpEnable, errorRedis, errorUnavailable, errorWrongCredentials, errorTooMany),
		route(g, "/totp/disable", g.totpDisable, errorRedis, errorUnavailable, errorWrongCredentials, errorTooMany),
	}
}
