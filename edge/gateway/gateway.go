package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"time"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// bodyBytesMax bounds the body of an account request.
	bodyBytesMax = 64 << 10
	// bearerBytesMax bounds the token of a header.
	bearerBytesMax = 4 << 10
	// bodyTimeout bounds the reading of one.
	bodyTimeout = 10 * time.Second
	// accountsTimeout bounds a call to the accounts: a hash and a commit in
	// the user's range, behind a queue of others.
	accountsTimeout = 10 * time.Second
)

// Mount adds handlers of other packages to the gateway's.
type Mount interface {
	// Routes registers them; patterns are those of [http.ServeMux].
	Routes(*http.ServeMux)
}

// Config is what a gateway works with.
type Config struct {
	Accounts controlpb.AccountsClient
	// ExemptLoopback lifts the limits per client address for loopback peers.
	ExemptLoopback bool
	// TrustedProxies are the balancers whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
}

// New is the handler of an edge's HTTP side. mounts may be empty.
func New(cfg Config, mounts ...Mount) http.Handler {
	g := &gateway{accounts: cfg.Accounts, exemptLoopback: cfg.ExemptLoopback, proxies: cfg.TrustedProxies}
	mux := http.NewServeMux()
	for _, e := range g.endpoints() {
		mux.HandleFunc("POST "+e.path, e.serve)
	}
	mux.HandleFunc("GET /openapi.yaml", serveOpenAPI)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "ok\n")
	})
	for _, m := range mounts {
		m.Routes(mux)
	}
	return mux
}

type gateway struct {
	accounts       controlpb.AccountsClient
	exemptLoopback bool
	proxies        []netip.Prefix
}

type loginRequest struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Device   string `json:"device"`
	Platform string `json:"platform"`
	TOTP     string `json:"totp"`
}

type loginReply struct {
	Error        int         `json:"error"`
	UUID         string      `json:"uuid"`
	Username     string      `json:"username"`
	Token        string      `json:"token"`
	ExpiresAt    string      `json:"expires_at"`
	RefreshToken string      `json:"refresh_token"`
	Device       string      `json:"device"`
	Host         string      `json:"host"`
	Port         string      `json:"port"`
	Edges        []loginEdge `json:"edges"`
}

type loginEdge struct {
	Edge string `json:"edge"`
	TCP  string `json:"tcp"`
	QUIC string `json:"quic"`
}

func (g *gateway) login(ctx context.Context, in *loginRequest, c caller) (*loginReply, error) {
	err := check(field{"username", in.Username, proto.NameBytesMax}, field{"password", in.Password, passwordBytesMax},
		optional("device", in.Device, proto.DeviceIDBytesMax), optional("platform", in.Platform, proto.DeviceIDBytesMax),
		optional("totp", in.TOTP, totpBytesMax))
	if err != nil {
		return nil, err
	}
	reply, err := g.accounts.Login(ctx, &controlpb.LoginRequest{
		Name: in.Username, Password: in.Password, Device: in.Device, Platform: in.Platform, Nonce: c.nonce, Address: c.address,
		Totp: in.TOTP,
	})
	if err != nil {
		return nil, err
	}
	if len(reply.Edges) == 0 {
		return nil, errNoEdge
	}
	return asLoginReply(reply), nil
}

func asLoginReply(reply *controlpb.LoginReply) *loginReply {
	out := &loginReply{
		UUID: strconv.FormatUint(reply.User, 10), Username: reply.Name,
		Token: reply.Token, ExpiresAt: time.UnixMilli(reply.ExpiresMs).UTC().Format(time.RFC3339),
		RefreshToken: reply.RefreshToken, Device: reply.Device,
	}
	out.Host, out.Port, _ = net.SplitHostPort(reply.Edges[0].Tcp)
	for _, e := range reply.Edges {
		out.Edges = append(out.Edges, loginEdge{Edge: e.Edge, TCP: e.Tcp, QUIC: e.Quic})
	}
	return out
}

// readJSON reads a request's body into out, or answers why it cannot.
func readJSON(w http.ResponseWriter, r *http.Request, out any) bool {
	// Not every connection has deadlines (HTTP/3 streams do): best effort.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		Problem{Status: http.StatusRequestEntityTooLarge, Code: proto.CodeTooBig.String(), Error: errorBadJSON,
			Detail: "the body may have at most " + strconv.Itoa(bodyBytesMax) + " bytes"}.write(w)
		return false
	}
	if len(body) == 0 && reflect.TypeOf(out).Elem().NumField() == 0 {
		return true // nothing is asked for
	}
	if err == nil {
		err = json.Unmarshal(body, out)
	}
	if err != nil {
		Problem{Status: http.StatusBadRequest, Code: "bad_json", Error: errorBadJSON,
			Detail: "the body is not the JSON object this path expects: " + err.Error()}.write(w)
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v)
}
