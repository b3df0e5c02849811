package gateway

import (
	"context"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/waggle-im/waggle/proto"
)

// endpoint is one path of the account API.
type endpoint struct {
	path    string
	request reflect.Type // of its body
	reply   reflect.Type
	errors  []int // the numbers it may answer, besides 1 and 15
	serve   http.HandlerFunc
}

// caller is who asks.
type caller struct {
	address string // for limits; empty: exempt
	// nonce makes the request one, although it may be repeated at another
	// control plane.
	nonce []byte
	token string // of a login, where the header Authorization has one
}

// endpoints are all paths of the account API.
func (g *gateway) endpoints() []endpoint {
	return append([]endpoint{
		route(g, "/get_verification", g.verification, errorRedis, errorUnavailable, errorTooMany),
		route(g, "/post_registration", g.registration, errorRedis, errorWrongCode, errorUnavailable, errorTaken, errorTooMany),
		route(g, "/check_accountexists", g.accountExists, errorRedis, errorUnavailable, errorNoAccount, errorTooMany),
		route(g, "/reset_password", g.resetPassword, errorRedis, errorWrongCode, errorUnavailable, errorNoAccount, errorTooMany),
		route(g, "/trylogin_server", g.login, errorNoEdge, errorRedis, errorUnavailable, errorWrongCredentials, errorTooMany),
		route(g, "/refresh", g.refresh, errorUnavailable, errorWrongCredentials, errorTooMany),
	}, g.totpEndpoints()...)
}

// route makes an endpoint of a function from body to answer.
func route[In, Out any](g *gateway, path string, do func(context.Context, *In, caller) (*Out, error), errors ...int) endpoint {
	return endpoint{
		path: path, request: reflect.TypeFor[In](), reply: reflect.TypeFor[Out](), errors: errors,
		serve: func(w http.ResponseWriter, r *http.Request) {
			in := new(In)
			if !readJSON(w, r, in) {
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), accountsTimeout)
			defer cancel()
			nonce := uuid.New()
			out, err := do(ctx, in, caller{address: g.clientAddress(r), nonce: nonce[:], token: bearer(r)})
			if err != nil {
				problemOf(err).write(w)
				return
			}
			writeJSON(w, out)
		},
	}
}

// bearer is the token of the header Authorization, if there is one.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || len(token) > bearerBytesMax {
		return ""
	}
	return strings.TrimSpace(token)
}

// field is a text of a body, with its greatest length in bytes.
type field struct {
	name, value string
	max         int
}

// optional is a field that may be empty.
func optional(name, value string, most int) field { return field{"?" + name, value, most} }

// check refuses a body with a field that is missing, too long or no text.
func check(fields ...field) error {
	for _, f := range fields {
		name, least := f.name, 1
		if rest, ok := strings.CutPrefix(name, "?"); ok {
			name, least = rest, 0
		}
		if len(f.value) < least || len(f.value) > f.max || !utf8.ValidString(f.value) {
			return proto.Errorf(proto.CodeBadRequest, "the field %q must have %d to %s bytes", name, least, strconv.Itoa(f.max))
		}
	}
	return nil
}
