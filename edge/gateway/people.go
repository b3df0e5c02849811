package gateway

import (
	"context"
	"strconv"
	"time"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// What a body may hold at most, in bytes; the control plane is stricter.
	emailBytesMax        = 254
	passwordBytesMax     = 512
	codeBytesMax         = 16
	refreshTokenBytesMax = 512
)

type verificationRequest struct {
	Email string `json:"email"`
}

type verificationReply struct {
	Error int    `json:"error"`
	Email string `json:"email"`
}

// verification has a code mailed. The answer is the same whether or not an
// account has the address.
func (g *gateway) verification(ctx context.Context, in *verificationRequest, c caller) (*verificationReply, error) {
	if err := check(field{"email", in.Email, emailBytesMax}); err != nil {
		return nil, err
	}
	_, err := g.accounts.SendCode(ctx, &controlpb.SendCodeRequest{Email: in.Email, Address: c.address, Nonce: c.nonce})
	if err != nil {
		return nil, err
	}
	return &verificationReply{Email: in.Email}, nil
}

// registrationRequest has the predecessor's spelling of "captcha".
type registrationRequest struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Email    string `json:"email"`
	Code     string `json:"cpatcha"`
}

type registrationReply struct {
	Error    int    `json:"error"`
	UUID     string `json:"uuid"`
	Username string `json:"username"`
	Email    string `json:"email"`
}

func (g *gateway) registration(ctx context.Context, in *registrationRequest, c caller) (*registrationReply, error) {
	err := check(field{"username", in.Username, proto.NameBytesMax}, field{"password", in.Password, passwordBytesMax},
		field{"email", in.Email, emailBytesMax}, optional("cpatcha", in.Code, codeBytesMax))
	if err != nil {
		return nil, err
	}
	if in.Code == "" {
		return nil, errNoCode
	}
	reply, err := g.accounts.Register(ctx, &controlpb.RegisterRequest{
		Name: in.Username, Password: in.Password, Email: in.Email, Code: in.Code, Address: c.address, Nonce: c.nonce,
	})
	if err != nil {
		return nil, err
	}
	return &registrationReply{UUID: strconv.FormatUint(reply.User, 10), Username: reply.Name, Email: reply.Email}, nil
}

type existsRequest struct {
	Username string `json:"username"`
	Email    string `json:"email"`
}

type accountReply struct {
	Error    int    `json:"error"`
	Username string `json:"username"`
	Email    string `json:"email"`
}

func (g *gateway) accountExists(ctx context.Context, in *existsRequest, c caller) (*accountReply, error) {
	if err := check(field{"username", in.Username, proto.NameBytesMax}, field{"email", in.Email, emailBytesMax}); err != nil {
		return nil, err
	}
	reply, err := g.accounts.CheckAccount(ctx, &controlpb.CheckAccountRequest{Name: in.Username, Email: in.Email, Address: c.address})
	if err != nil {
		return nil, err
	}
	return &accountReply{Username: reply.Name, Email: reply.Email}, nil
}

type resetRequest struct {
	Username string `json:"username"`
	Email    string `json:"email"`
	Password string `json:"password"`
	Code     string `json:"cpatcha"`
}

func (g *gateway) resetPassword(ctx context.Context, in *resetRequest, c caller) (*accountReply, error) {
	err := check(field{"username", in.Username, proto.NameBytesMax}, field{"email", in.Email, emailBytesMax},
		field{"password", in.Password, passwordBytesMax}, optional("cpatcha", in.Code, codeBytesMax))
	if err != nil {
		return nil, err
	}
	if in.Code == "" {
		return nil, errNoCode
	}
	reply, err := g.accounts.ResetPassword(ctx, &controlpb.ResetPasswordRequest{
		Name: in.Username, Email: in.Email, Password: in.Password, Code: in.Code, Address: c.address, Nonce: c.nonce,
	})
	if err != nil {
		return nil, err
	}
	return &accountReply{Username: reply.Name, Email: reply.Email}, nil
}

type refreshRequest struct {
	RefreshToken string `json:"refresh_token"`
}

type refreshReply struct {
	Error        int    `json:"error"`
	UUID         string `json:"uuid"`
	Token        string `json:"token"`
	ExpiresAt    string `json:"expires_at"`
	RefreshToken string `json:"refresh_token"`
	Device       string `json:"device"`
}

func (g *gateway) refresh(ctx context.Context, in *refreshRequest, c caller) (*refreshReply, error) {
	if err := check(field{"refresh_token", in.RefreshToken, refreshTokenBytesMax}); err != nil {
		return nil, err
	}
	reply, err := g.accounts.Refresh(ctx, &controlpb.RefreshRequest{RefreshToken: in.RefreshToken, Address: c.address})
	if err != nil {
		return nil, err
	}
	return &refreshReply{
		UUID: strconv.FormatUint(reply.User, 10), Token: reply.Token,
		ExpiresAt:    time.UnixMilli(reply.ExpiresMs).UTC().Format(time.RFC3339),
		RefreshToken: reply.RefreshToken, Device: reply.Device,
	}, nil
}
