package devcluster

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	probeFile = "probe.json"
	// probeRetry is the wait between tries while the cluster starts.
	probeRetry = 20 * time.Millisecond
	// probeTimeout bounds one message's way.
	probeTimeout = 30 * time.Second
)

// probe sends a message from one synthetic user to another, from the first
// cell to the last, and waits until it has arrived: only then is the cluster
// ready.
type probe struct{ c *Cluster }

// probeUser is a synthetic user with a token, kept for the next start.
type probeUser struct {
	Name    string `json:"name"`
	User    uint64 `json:"user"`
	Token   string `json:"token"`
	Device  string `json:"device"`
	Expires int64  `json:"expires_ms"`
}

func (p *probe) run(ctx context.Context) error {
	users, err := p.users(ctx)
	if err != nil {
		return err
	}
	pool, err := certs.LoadPool(filepath.Join(p.c.o.DataDir, caFile))
	if err != nil {
		return err
	}
	roots := &tls.Config{RootCAs: pool}
	text := "ready " + time.Now().UTC().Format(time.RFC3339Nano)
	arrived := make(chan struct{}, 1)
	receiver, err := client.New(client.Config{
		Server: p.c.o.Listen, Transport: client.TCP, TLS: roots, Token: users[1].Token, Device: users[1].Device,
		Name: "waggle-probe", Subscribe: true, FromConfirmed: true, Logger: p.c.o.Logger,
		OnUpdate: func(u client.Update) {
			if u.Event.GetText().GetText() == text {
				select {
				case arrived <- struct{}{}:
				default:
				}
			}
		},
	})
	if err != nil {
		return err
	}
	sender, err := client.New(client.Config{
		Server: p.c.o.Listen, TLS: roots, Token: users[0].Token, Device: users[0].Device, Name: "waggle-probe", Logger: p.c.o.Logger,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	done := make(chan error, 2)
	runCtx, stop := context.WithCancel(ctx)
	for _, c := range []*client.Client{receiver, sender} {
		go func() { done <- c.Run(runCtx) }() // awaited below
	}
	defer func() {
		stop()
		<-done
		<-done
	}()
	thread := proto.DirectThread(proto.EntityID(users[0].User), proto.EntityID(users[1].User))
	_, err = sender.Send(ctx, thread.String(), text)
	if proto.CodeOf(err) == proto.CodeNotFriends { // chat.direct_from: friends
		if err = befriend(ctx, sender, receiver, users); err == nil {
			_, err = sender.Send(ctx, thread.String(), text)
		}
	}
	if err != nil {
		return fmt.Errorf("the first message was not acknowledged within %s: %w", probeTimeout, err)
	}
	select {
	case <-arrived:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the first message did not arrive within %s", probeTimeout)
	}
}

// befriend makes friends of the two: each asks the other.
func befriend(ctx context.Context, first, second *client.Client, users []probeUser) error {
	for i, c := range []*client.Client{first, second} {
		peer := proto.EntityID(users[1-i].User)
		change := client.ContactChange{User: peer, Action: clientpb.ContactAction_CONTACT_ACTION_REQUEST}
		if _, err := c.ChangeContact(ctx, change); err != nil {
			return err
		}
	}
	return nil
}

// users are the two synthetic users: those of the last start while their
// tokens are good, else new ones.
func (p *probe) users(ctx context.Context) ([]probeUser, error) {
	file := filepath.Join(p.c.o.DataDir, probeFile)
	var users []probeUser
	soon := time.Now().Add(time.Hour).UnixMilli()
	if raw, err := os.ReadFile(file); err == nil && json.Unmarshal(raw, &users) == nil &&
		len(users) == 2 && users[0].Expires > soon && users[1].Expires > soon {
		return users, nil
	}
	var suffix [4]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return nil, err
	}
	cells := p.c.cells
	var requests []*controlpb.AddAccountRequest
	for i, cell := range []string{cells[0], cells[len(cells)-1]} {
		name := fmt.Sprintf("probe-%s-%d", hex.EncodeToString(suffix[:]), i+1)
		requests = append(requests, &controlpb.AddAccountRequest{
			Name: name, Email: name + "@example.org", Cell: cell, WithToken: true,
		})
	}
	replies, err := p.c.addAccounts(ctx, requests)
	if err != nil {
		return nil, err
	}
	users = nil
	for _, r := range replies {
		users = append(users, probeUser{
			Name: r.Name, User: r.User, Token: r.Token, Device: r.Device,
			Expires: time.Now().Add(proto.TokenLifetime).UnixMilli(),
		})
	}
	raw, err := json.Marshal(users)
	if err != nil {
		return nil, err
	}
	return users, atomicfile.Write(file, raw, 0o600)
}
