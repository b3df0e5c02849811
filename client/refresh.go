package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
)

const (
	// refreshTimeout bounds one refresh: a commit in the user's range.
	refreshTimeout = 15 * time.Second
	// refreshReplyBytesMax bounds its answer.
	refreshReplyBytesMax = 64 << 10
	// The wait after a refresh that failed doubles up to refreshRetryMax.
	refreshRetryMin = time.Second
	refreshRetryMax = time.Minute
)

// Tokens are what a login or a refresh gives.
type Tokens struct {
	Token        string
	RefreshToken string
	ExpiresAt    time.Time // of Token
}

// canRefresh tells whether there is a way to get another token.
func (c *Client) canRefresh() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.refreshOver && (c.cfg.Refresh != nil || c.tokens.RefreshToken != "")
}

// tokenLeft is how long the token is valid, and how long until half of its
// life is over: for one that came while we ran by the time since, which needs
// no right clock, else by the server's clock as far as known.
func (c *Client) tokenLeft() (valid, half time.Duration) {
	now := c.serverTime()
	c.mu.Lock()
	encoded, over, came := c.tokens.Token, c.tokenOver, c.tokenCame
	c.mu.Unlock()
	if over {
		return 0, 0
	}
	issued, expires, ok := token.Lifetime(encoded)
	if !ok {
		return proto.TokenLifetime, proto.TokenLifetime / 2 // the server will say
	}
	if life := expires.Sub(issued); !came.IsZero() {
		return life - time.Since(came), life/2 - time.Since(came)
	}
	return expires.Sub(now), issued.Add(expires.Sub(issued) / 2).Sub(now)
}

// keepToken refreshes the token at half of its life, until ctx ends. What
// fails is tried again and disturbs nothing: a session outlasts its token.
func (c *Client) keepToken(ctx context.Context) {
	retry := refreshRetryMin
	wait := time.Duration(0)
	for c.canRefresh() {
		if _, half := c.tokenLeft(); wait == 0 {
			wait = max(half, 0)
		}
		timer := time.NewTimer(min(wait, time.Hour)) // clocks are set now and then
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = 0
		if _, half := c.tokenLeft(); half > 0 {
			continue
		}
		if err := c.refresh(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Debug("the token is not refreshed", "err", err)
			wait, retry = retry, min(2*retry, refreshRetryMax)
			continue
		}
		retry = refreshRetryMin
	}
}

// refresh gets other tokens and keeps them. One caller does it at a time; who
// waited finds it done.
func (c *Client) refresh(ctx context.Context) error {
	select {
	case c.refreshing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.refreshing }()
	if _, half := c.tokenLeft(); half > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	c.mu.Lock()
	have := c.tokens
	cfg := c.cfg
	cfg.Server = c.servers[0]
	c.mu.Unlock()
	var next Tokens
	var err error
	if cfg.Refresh != nil {
		next, err = cfg.Refresh(ctx, have)
	} else if next, err = RefreshTokens(ctx, &cfg, have.RefreshToken); err == nil && cfg.OnTokens != nil {
		// A successor is not used before it is kept: else one that is lost
		// would leave only tokens whose use ends the device.
		err = cfg.OnTokens(next)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		e, refused := errors.AsType[*proto.Error](err)
		if c.refreshOver = refused && final(e); c.refreshOver {
			c.refreshEnd = err
		}
		return err
	}
	c.tokens, c.tokenOver, c.tokenCame = next, false, time.Now()
	return nil
}

// freshToken makes sure that the token to say Hello with is valid.
func (c *Client) freshToken(ctx context.Context) error {
	valid, _ := c.tokenLeft()
	c.mu.Lock()
	ended := c.refreshEnd
	c.mu.Unlock()
	switch {
	case valid > 0:
		return nil
	case ended != nil: // refused for good, maybe beside us a moment ago
		return ended
	case !c.canRefresh():
		return nil
	}
	return c.refresh(ctx)
}

// helloRefused notes that the server takes the token for expired, whatever
// our clock says. It tells whether trying again can help.
func (c *Client) helloRefused(err error) bool {
	if proto.CodeOf(err) != proto.CodeTokenExpired || !c.canRefresh() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokenOver = true
	return true
}

// RefreshTokens exchanges a refresh token at cfg.Server, over HTTP. The old one
// stays valid until its successor is first used, so that an answer that was
// lost can be had again.
//
// Errors: [proto.CodeSessionEnded] (log in again); [proto.CodeUnavailable],
// also for a server that does not answer: try again.
func RefreshTokens(ctx context.Context, cfg *Config, refreshToken string) (Tokens, error) {
	url := "https://" + cfg.Server + "/refresh"
	transport := &http.Transport{ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	if cfg.Transport == Plain {
		url = "http://" + cfg.Server + "/refresh"
	} else {
		transport.TLSClientConfig = tlsConfig(cfg, cfg.Server)
		transport.TLSClientConfig.NextProtos = nil
	}
	body, err := json.Marshal(map[string]string{"refresh_token": refreshToken})
	if err != nil {
		return Tokens{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return Tokens{}, fmt.Errorf("client: refresh: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	reply, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return Tokens{}, fmt.Errorf("client: refresh: %w", err)
	}
	defer reply.Body.Close()
	var answer struct {
		Token        string    `json:"token"`
		RefreshToken string    `json:"refresh_token"`
		ExpiresAt    time.Time `json:"expires_at"`
		Detail       string    `json:"detail"`
	}
	err = json.NewDecoder(io.LimitReader(reply.Body, refreshReplyBytesMax)).Decode(&answer)
	switch {
	case reply.StatusCode == http.StatusUnauthorized:
		return Tokens{}, proto.Errorf(proto.CodeSessionEnded, "%s", answer.Detail)
	case reply.StatusCode != http.StatusOK || err != nil || answer.Token == "" || answer.RefreshToken == "":
		e := proto.Errorf(proto.CodeUnavailable, "the server did not refresh the token (status %d): %s", reply.StatusCode, answer.Detail)
		if seconds, err := strconv.Atoi(reply.Header.Get("Retry-After")); err == nil {
			e.Retry = time.Duration(seconds) * time.Second
		}
		return Tokens{}, e
	}
	return Tokens{answer.Token, answer.RefreshToken, answer.ExpiresAt}, nil
}
