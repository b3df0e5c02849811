package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
)

const (
	// loginReplyBytesMax bounds the answer to a login.
	loginReplyBytesMax = 1 << 20
	// loginTimeout bounds a login: one hash behind a queue of others.
	loginTimeout = 15 * time.Second
)

func (a *app) login() *cobra.Command {
	transport := choice{allowed: []string{"quic", "tcp", "plain"}}
	var passwordFile, device, totp string
	cmd := &cobra.Command{
		Use: "login NAME", Short: "log in and keep that in the profile", Args: args(1, 1),
		Long: "Logs in and keeps token, server and transport in the profile, for its owner only.\n" +
			"A profile is one device; logging the same person in again keeps the device.\n" +
			"Without --transport the client tries QUIC and falls back to TCP. With\n" +
			"--transport plain, --server is the server's plaintext address.",
		Example: "  waggle login ann\n  waggle login bob --profile /tmp/bob --password-file bob.txt --transport tcp",
	}
	p := a.personFlags(cmd)
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "`FILE` with the password; without it, it is asked for")
	cmd.Flags().Var(&transport, "transport", "how to connect")
	cmd.Flags().StringVar(&totp, "totp", "", "`CODE` of your second factor, or a recovery code; asked for when it is needed")
	cmd.Flags().StringVar(&device, "device", "", "`NAME` of this device; default: the profile's, or a new one")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		prof, err := p.forLogin(args[0], transport.value, device)
		if err != nil {
			return err
		}
		password, err := a.password("Password for "+args[0]+": ", passwordFile)
		if err != nil {
			return err
		}
		if prof, err = a.logInWithTOTP(cmd.Context(), p, prof, credentials{password, totp}); err != nil {
			return err
		}
		dir, err := p.profileDir()
		if err != nil {
			return err
		}
		if err := prof.saveLocked(cmd.Context(), dir); err != nil {
			return err
		}
		if p.json() {
			return printLine(a.out, map[string]string{"user": prof.User, "name": prof.Name, "device": prof.Device, "server": prof.Server, "expires_at": prof.ExpiresAt})
		}
		_, err = fmt.Fprintf(a.out, "%s (user %s) is logged in at %s until %s, as device %s, in the profile %s\n",
			prof.Name, prof.User, prof.Server, prof.ExpiresAt, prof.Device, dir)
		return err
	}
	return cmd
}

// forLogin is the profile to log in with: what the flags say, and for the same
// person at the same place what was there before.
func (p *person) forLogin(name, transport, device string) (profile, error) {
	if err := p.check(); err != nil {
		return profile{}, err
	}
	dir, err := p.profileDir()
	if err != nil {
		return profile{}, err
	}
	before, err := loadProfile(dir)
	if err != nil {
		before = profile{} // it is written anew
	}
	prof := profile{Server: p.server, CA: p.ca, Transport: transport, Name: name, Device: device}
	if prof.Server == "" {
		switch {
		case before.Server != "" && (before.Transport == string(client.Plain)) == (transport == string(client.Plain)):
			prof.Server = before.Server
		case transport == string(client.Plain):
			return prof, usagef("--transport plain needs the server's plaintext address: --server HOST:PORT")
		default:
			prof.Server = defaultServer
		}
	}
	if prof.CA == "" && before.Server == prof.Server {
		prof.CA = before.CA
	}
	if prof.CA == "" && transport != string(client.Plain) {
		if _, err := os.Stat(devCA); err == nil {
			prof.CA = devCA
		}
	}
	if prof.CA != "" {
		// The profile is used from other folders too.
		if prof.CA, err = filepath.Abs(prof.CA); err != nil {
			return prof, fmt.Errorf("--ca: %w", err)
		}
	}
	if prof.Device == "" && strings.EqualFold(before.Name, name) && before.Server == prof.Server {
		prof.Device = before.Device
	}
	return prof, nil
}

// credentials are what shows who logs in.
type credentials struct{ password, totp string }

// logInWithTOTP asks for the second factor when the server wants one and
// there is somebody to ask.
func (a *app) logInWithTOTP(ctx context.Context, p *person, prof profile, c credentials) (profile, error) {
	next, err := p.logIn(ctx, prof, c)
	e, ok := errors.AsType[*loginRefused](err)
	if !ok || e.code != proto.CodeNeedTOTP.String() || !a.inTerminal {
		return next, err
	}
	fmt.Fprint(a.err, "Code of your second factor: ")
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if c.totp = strings.TrimSpace(line); c.totp == "" {
		return prof, fmt.Errorf("no code was given (%w): --totp CODE gives one", cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return p.logIn(ctx, prof, c)
}

// loginAnswer is what a server answers, success and failure in one.
type loginAnswer struct {
	Error        int    `json:"error"`
	UUID         string `json:"uuid"`
	Username     string `json:"username"`
	Email        string `json:"email"`
	Token        string `json:"token"`
	ExpiresAt    string `json:"expires_at"`
	RefreshToken string `json:"refresh_token"`
	Device       string `json:"device"`
	Edges        []struct {
		TCP string `json:"tcp"`
	} `json:"edges"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// logIn asks the server for a token. A server that says it is not ready is
// asked again until --timeout.
func (p *person) logIn(ctx context.Context, prof profile, c credentials) (profile, error) {
	plain := prof.Transport == string(client.Plain)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSHandshakeTimeout: p.timeout}
	url := "https://" + prof.Server + "/trylogin_server"
	if plain {
		url = "http://" + prof.Server + "/trylogin_server"
	} else {
		var err error
		if transport.TLSClientConfig, err = roots(prof.CA); err != nil {
			return prof, err
		}
	}
	defer transport.CloseIdleConnections()
	h := &http.Client{Transport: transport, Timeout: max(p.timeout, loginTimeout)}
	body, err := json.Marshal(map[string]string{
		"username": prof.Name, "password": c.password, "device": prof.Device, "platform": "terminal", "totp": c.totp,
	})
	if err != nil {
		return prof, err
	}
	end := time.Now().Add(p.timeout)
	for {
		answer, again, err := askLogin(ctx, h, url, body)
		if again > 0 && time.Now().Add(again).Before(end) {
			select {
			case <-time.After(again):
				continue
			case <-ctx.Done():
			}
		}
		if err != nil {
			return prof, explainLogin(prof, err)
		}
		prof.User, prof.Name, prof.Device = answer.UUID, answer.Username, answer.Device
		prof.Token, prof.RefreshToken, prof.ExpiresAt = answer.Token, answer.RefreshToken, answer.ExpiresAt
		for _, e := range answer.Edges {
			if !plain && e.TCP != "" && e.TCP != prof.Server {
				prof.Edges = append(prof.Edges, e.TCP)
			}
		}
		if _, err := prof.user(); err != nil || prof.Token == "" {
			return prof, fmt.Errorf("%s answered the login without a user and a token: is it a Waggle server? --server names another", prof.Server)
		}
		return prof, nil
	}
}

// loginRefused is a server's no.
type loginRefused struct{ code, detail string }

func (e *loginRefused) Error() string { return e.detail }

func askLogin(ctx context.Context, h *http.Client, url string, body []byte) (a loginAnswer, again time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return a, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	reply, err := h.Do(req)
	if err != nil {
		return a, 0, err
	}
	defer reply.Body.Close()
	if err := json.NewDecoder(io.LimitReader(reply.Body, loginReplyBytesMax)).Decode(&a); err != nil {
		return a, 0, &loginRefused{detail: fmt.Sprintf("%s answered status %d and no JSON: is it a Waggle server? --server names another", url, reply.StatusCode)}
	}
	if reply.StatusCode == http.StatusOK && a.Error == 0 {
		return a, 0, nil
	}
	if seconds, err := strconv.Atoi(reply.Header.Get("Retry-After")); err == nil && reply.StatusCode == http.StatusServiceUnavailable {
		again = time.Duration(max(1, seconds)) * time.Second
	}
	if a.Detail == "" {
		a.Detail = fmt.Sprintf("the server refused the login with status %d", reply.StatusCode)
	}
	return a, again, &loginRefused{a.Code, a.Detail}
}

func explainLogin(prof profile, err error) error {
	if e, ok := errors.AsType[*loginRefused](err); ok {
		return fmt.Errorf("login of %s: %w", prof.Name, e)
	}
	if prof.Transport == string(client.Plain) {
		return fmt.Errorf("%w (--transport plain needs the plaintext address)", explain(prof.Server, err))
	}
	return explain(prof.Server, err)
}
