package testcluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// watcher records what a device is told of friends.
type watcher struct {
	mu     sync.Mutex // guards the fields below
	said   map[proto.EntityID][]*clientpb.FriendPresence
	typing []*clientpb.TypingNow
}

func (w *watcher) last(id proto.EntityID) *clientpb.FriendPresence {
	w.mu.Lock()
	defer w.mu.Unlock()
	if list := w.said[id]; len(list) > 0 {
		return list[len(list)-1]
	}
	return nil
}

// offlines counts how often a friend was said to be offline.
func (w *watcher) offlines(id proto.EntityID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, p := range w.said[id] {
		if !p.Online {
			n++
		}
	}
	return n
}

func (w *watcher) typed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.typing)
}

func (c *Cluster) watch(u User, transport client.Transport) (*Device, *watcher) {
	c.t.Helper()
	w := &watcher{said: map[proto.EntityID][]*clientpb.FriendPresence{}}
	d := c.Connect(u, transport, func(cfg *client.Config) {
		cfg.OnPresence = func(p *clientpb.Presence) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, f := range p.Friends {
				id := proto.EntityID(f.User)
				w.said[id] = append(w.said[id], f)
			}
		}
		cfg.OnTyping = func(n *clientpb.TypingNow) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.typing = append(w.typing, n)
		}
	})
	return d, w
}

func (c *Cluster) untilOnline(w *watcher, u User, online bool) *clientpb.FriendPresence {
	c.t.Helper()
	var got *clientpb.FriendPresence
	c.Until(fmt.Sprintf("%s is seen online: %v", u.Name, online), func() error {
		if got = w.last(u.ID); got == nil || got.Online != online {
			return fmt.Errorf("told %v", got)
		}
		return nil
	})
	return got
}

func (c *Cluster) befriend(a, b *Device) {
	c.t.Helper()
	ctx := c.Context()
	for _, step := range []struct {
		d      *Device
		to     User
		action clientpb.ContactAction
	}{{a, b.User, clientpb.ContactAction_CONTACT_ACTION_REQUEST}, {b, a.User, clientpb.ContactAction_CONTACT_ACTION_ACCEPT}} {
		if _, err := step.d.ChangeContact(ctx, client.ContactChange{User: step.to.ID, Action: step.action}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// quick makes presence as fast as a test wants it.
func quick(refresh time.Duration) func(*daemon.Config) error {
	return func(cfg *daemon.Config) error {
		cfg.Cell.PresenceRefreshMs = int(refresh.Milliseconds())
		return nil
	}
}

// Friends see each other come and go, and write; nobody else does.
func TestPresenceAndTyping(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true, Override: quick(2 * time.Second)})
	ann, bob, eve := c.AddUser("ann", "c1"), c.AddUser("bob", "c2"), c.AddUser("eve", "c2")
	a, aw := c.watch(ann, client.QUIC)
	b, bw := c.watch(bob, client.TCP)
	_, ew := c.watch(eve, client.TCP)
	ctx := c.Context()
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	// Nobody knows of anybody before they are friends.
	a.Typing(thread)
	c.befriend(a, b)
	c.untilOnline(aw, bob, true)
	c.untilOnline(bw, ann, true)
	if bw.typed() != 0 {
		t.Error("a stranger was seen typing")
	}
	c.Until("bob sees ann typing", func() error {
		a.Typing(thread)
		if bw.typed() == 0 {
			return fmt.Errorf("nothing")
		}
		return nil
	})
	// Second devices come and go without a change; a new one gets it all.
	leave := c.visit(c.NewDevice(bob)).leave
	_, second := c.watch(c.NewDevice(ann), client.TCP)
	c.untilOnline(second, bob, true)
	leave()

	// Hidden: offline at once, no last seen, and no typing.
	hide := false
	if _, err := b.SetProfile(ctx, &clientpb.SetProfile{Presence: &hide}); err != nil {
		t.Fatal(err)
	}
	if got := c.untilOnline(aw, bob, false); got.LastSeenMs != 0 {
		t.Errorf("one who hides was last seen at %d", got.LastSeenMs)
	}
	n := aw.typed()
	b.Typing(thread)
	show := true
	if _, err := b.SetProfile(ctx, &clientpb.SetProfile{Presence: &show}); err != nil {
		t.Fatal(err)
	}
	c.untilOnline(aw, bob, true)
	if aw.typed() != n {
		t.Error("one who hides was seen typing")
	}
	// A friend who is removed is gone at once, on both sides.
	if _, err := a.ChangeContact(ctx, client.ContactChange{User: bob.ID, Action: clientpb.ContactAction_CONTACT_ACTION_REMOVE}); err != nil {
		t.Fatal(err)
	}
	c.untilOnline(aw, bob, false)
	c.untilOnline(bw, ann, false)
	if len(ew.said) != 0 || ew.typed() != 0 {
		t.Errorf("a stranger was told %v and %d times of typing", ew.said, ew.typed())
	}
}

// Who has gone was last seen when his last connection ended, also for one who
// asks later.
func TestLastSeen(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true, Override: quick(time.Second)})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	a, aw := c.watch(ann, client.TCP)
	phone := c.NewDevice(bob)
	b := c.visit(phone)
	c.befriend(a, b.Device)
	c.untilOnline(aw, bob, true)
	gone := time.Now()
	b.leave()
	got := c.untilOnline(aw, bob, false)
	if seen := time.UnixMilli(got.LastSeenMs); seen.Before(gone.Add(-time.Second)) || seen.After(time.Now().Add(time.Second)) {
		t.Errorf("last seen %s, he went at %s", seen, gone)
	}
	// Hosts that know nothing of it read it from the devices' rows.
	for _, node := range []string{"c1-n1", "c2-n1"} {
		c.StopNode(node)
		c.StartNode(node)
	}
	_, late := c.watch(c.NewDevice(ann), client.TCP)
	c.Until("a later device of ann's is told when bob was last seen", func() error {
		if p := late.last(bob.ID); p.GetLastSeenMs() == 0 {
			return fmt.Errorf("told %v", p)
		}
		return nil
	})
}

// visitor is a device that can leave.
type visitor struct {
	*Device
	leave func()
}

// visit connects u until it leaves.
func (c *Cluster) visit(u User) visitor {
	c.t.Helper()
	cl, err := client.New(client.Config{
		Server: c.options.Listen, Transport: client.TCP, TLS: c.TLS(), Token: u.Token, Device: u.Device, Subscribe: true, FromConfirmed: true,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ended and awaited by leave
		defer close(done)
		_ = cl.Run(ctx)
	}()
	v := visitor{&Device{Client: cl, User: u}, sync.OnceFunc(func() {
		cancel()
		<-done
	})}
	c.t.Cleanup(v.leave)
	if err := cl.WaitConnected(c.Context()); err != nil {
		c.t.Fatal(err)
	}
	return v
}

// When a host dies, those it had are seen offline in time, and online again
// when it is back; when another takes over, nobody notices.
func TestPresenceOutlivesHosts(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true, Override: quick(2 * time.Second)})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	a, aw := c.watch(ann, client.TCP)
	b, _ := c.watch(bob, client.TCP)
	c.befriend(a, b)
	c.untilOnline(aw, bob, true)
	died := time.Now()
	c.StopNode("c2-n1")
	c.untilOnline(aw, bob, false)
	if took := time.Since(died); took > 20*time.Second { // 2.5 refreshes are 5 s
		t.Errorf("seen offline after %s", took)
	}
	c.StartNode("c2-n1")
	c.untilOnline(aw, bob, true)
}

// A user whose host is replaced while he stays connected does not flicker.
func TestPresenceWithoutFlicker(t *testing.T) {
	c := Start(t, devcluster.Options{Replicas: 3, NoDemo: true, Override: quick(8 * time.Second)})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	a, aw := c.watch(ann, client.TCP)
	b, bw := c.watch(bob, client.TCP)
	c.befriend(a, b)
	c.untilOnline(aw, bob, true)
	c.untilOnline(bw, ann, true)
	host := c.Range(bob.ID.Range()).Host
	c.StopNode(host)
	c.Until("another host has bob", func() error {
		if r := c.Range(bob.ID.Range()); r.Host == "" || r.Host == host {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	// He is here and is heard by way of the new host.
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	c.Until("ann sees bob typing", func() error {
		b.Typing(thread)
		if aw.typed() == 0 {
			return fmt.Errorf("nothing")
		}
		return nil
	})
	if n := aw.offlines(bob.ID); n != 0 || b.Disconnects() != 0 {
		t.Errorf("bob was seen offline %d times and disconnected %d times", n, b.Disconnects())
	}
}
