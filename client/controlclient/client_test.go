package controlclient

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/internal/embedetcd"
	"github.com/waggle-im/waggle/internal/testservers"
	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// grpc and etcd's own, ended a moment after Close returns.
		goleak.IgnoreTopFunction("go.etcd.io/etcd/client/pkg/v3/fileutil.purgeFile"))
}

type store struct {
	conf   embedetcd.Config
	server *embedetcd.Server
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{conf: embedetcd.Config{Dir: t.TempDir(), ClientAddr: testservers.FreeAddr(t), PeerAddr: testservers.FreeAddr(t)}}
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

func (s *store) start(t *testing.T) {
	t.Helper()
	server, err := embedetcd.Start(t.Context(), s.conf)
	if err != nil {
		t.Fatal(err)
	}
	s.server = server
}

func (s *store) stop() {
	if s.server != nil {
		s.server.Close()
		s.server = nil
	}
}

func (s *store) config(cache string) Config {
	return Config{Endpoints: []string{"http://" + s.conf.ClientAddr}, CachePath: cache, Logger: slog.New(slog.DiscardHandler)}
}

// run starts a client; stop ends it and waits for it.
func run(t *testing.T, conf Config) (c *Client, stop func()) {
	t.Helper()
	c, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			<-done
			_ = c.Close()
		}
	}
	t.Cleanup(stop)
	return c, stop
}

// eventually waits until the view satisfies ok.
func eventually(t *testing.T, c *Client, what string, ok func(*View) bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		changed := c.Changed()
		if ok(c.View()) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

func put(t *testing.T, c *Client, key string, m proto.Message) {
	t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.Etcd().Put(ctx, key, string(value)); err != nil {
		t.Fatal(err)
	}
}

func someRange(id waggle.RangeID, epoch uint64, cell string) *controlpb.RangeRecord {
	return &controlpb.RangeRecord{
		Range: uint64(id), Cell: cell, Epoch: epoch,
		Replicas: []*controlpb.RangeReplica{{Id: 1, Node: cell + "-n1"}}, Open: true, Created: true,
	}
}

func node(name, cell, addr string, roles ...string) *controlpb.NodeRecord {
	return &controlpb.NodeRecord{Node: name, Cell: cell, Addr: addr, Roles: roles}
}

func TestFollowsAndStartsWithoutEtcd(t *testing.T) {
	s := newStore(t)
	cache := filepath.Join(t.TempDir(), "cluster.json")
	conf := s.config(cache)
	conf.Self = node("c1-n1", "c1", "127.0.0.1:7001", "chat", "storage")
	users := uint64(1)
	conf.Load = func() *controlpb.Load { users++; return &controlpb.Load{Users: users} }
	c, stop := run(t, conf)
	if err := c.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, c, CellKey("c1"), &controlpb.CellRecord{Cell: "c1", Replicas: 1})
	put(t, c, RangeKey(1), someRange(1, 1, "c1"))
	put(t, c, KeyKey("k"), &controlpb.KeyRecord{Kid: "k", PublicKey: public})
	check := func(c *Client, alive bool) {
		t.Helper()
		eventually(t, c, "everything known", func(v *View) bool {
			return v.Cells["c1"] != nil && v.Ranges[1] != nil && len(v.Keys) == 1 && v.Nodes["c1-n1"].Alive == alive && v.Nodes["c1-n1"].Record != nil
		})
		if r, ok := c.Routes().Lookup(1); !ok || r.Cell != "c1" || r.Epoch != 1 || len(r.Nodes) != 1 {
			t.Errorf("route %+v", r)
		}
		if addr, ok := c.NodeAddr("c1-n1"); !ok || addr != "127.0.0.1:7001" {
			t.Errorf("address %q", addr)
		}
		if key, ok := c.PublicKey("k"); !ok || !key.Equal(public) {
			t.Error("the key is not known")
		}
		if nodes := c.CellNodes("c1"); len(nodes) != 1 || nodes[0] != "c1-n1" {
			t.Errorf("nodes of c1: %v", nodes)
		}
	}
	check(c, true)
	first := c.View().Nodes["c1-n1"].Record.Load.GetUsers()
	eventually(t, c, "a newer load", func(v *View) bool { return v.Nodes["c1-n1"].Record.Load.GetUsers() > first })
	stop() // writes what is pending
	if info, err := os.Stat(cache); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the copy on disk: %v, %v", info, err)
	}

	s.stop()
	conf.Self = nil
	c, stop = run(t, conf)
	check(c, false)
	if err := c.WaitUsable(t.Context()); err != nil {
		t.Errorf("with a copy on disk: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.WaitSynced(ctx); err == nil || c.Synced() {
		t.Error("synced with an etcd that is down")
	}

	s.start(t) // and it finds its way back
	put(t, c, RangeKey(2), someRange(2, 1, "c1"))
	eventually(t, c, "range 2", func(v *View) bool { return v.Ranges[2] != nil })
	stop()
}

func TestLostLeaseMarksGoneAndKeepsAddress(t *testing.T) {
	s := newStore(t)
	watcher, _ := run(t, s.config(""))
	conf := s.config("")
	conf.Self = node("e1", "", "127.0.0.1:7002", "edge")
	_, stop := run(t, conf)
	eventually(t, watcher, "e1 alive", func(v *View) bool { return v.Nodes["e1"].Alive })
	stop()
	eventually(t, watcher, "e1 gone", func(v *View) bool { return !v.Nodes["e1"].Alive })
	if addr, ok := watcher.NodeAddr("e1"); !ok || addr != "127.0.0.1:7002" {
		t.Errorf("the address of a gone node: %q, %v", addr, ok)
	}
	// It comes back elsewhere: the old address must not hide the new one.
	conf.Self = node("e1", "", "127.0.0.1:7003", "edge")
	_, stop = run(t, conf)
	eventually(t, watcher, "e1 back", func(v *View) bool { return v.Nodes["e1"].Alive })
	if addr, _ := watcher.NodeAddr("e1"); addr != "127.0.0.1:7003" {
		t.Errorf("the old address %q hides the new one", addr)
	}
	stop()
	if _, err := watcher.Etcd().Delete(t.Context(), NodeKey("e1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, watcher, "e1 removed", func(v *View) bool { _, ok := v.Nodes["e1"]; return !ok })
}

func TestNodeIsAnnouncedAgainAfterItsLeaseEnded(t *testing.T) {
	s := newStore(t)
	conf := s.config("")
	conf.Self = node("e1", "", "127.0.0.1:7002", "edge")
	c, _ := run(t, conf)
	eventually(t, c, "e1 alive", func(v *View) bool { return v.Nodes["e1"].Alive })
	leases, err := c.Etcd().Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases: %v, %v", leases, err)
	}
	if _, err := c.Etcd().Revoke(t.Context(), leases.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "e1 gone", func(v *View) bool { return !v.Nodes["e1"].Alive })
	eventually(t, c, "e1 alive again", func(v *View) bool { return v.Nodes["e1"].Alive })
}

// A node that is leaving says so at once and again under a new lease, until it
// is over or the node is gone; what operators ask of an edge is followed, kept
// on disk and forgotten with its record.
func TestLeavingIsToldAndOrdersAreFollowed(t *testing.T) {
	s := newStore(t)
	cache := filepath.Join(t.TempDir(), "cache")
	watcher, stopWatcher := run(t, s.config(cache))
	conf := s.config("")
	conf.Self = node("e1", "", "127.0.0.1:7002", "edge")
	c, stop := run(t, conf)
	eventually(t, watcher, "e1 alive", func(v *View) bool { return v.Nodes["e1"].Alive && !v.Leaving("e1") })
	c.SetLeaving(true)
	eventually(t, watcher, "e1 is leaving", func(v *View) bool { return v.Leaving("e1") })
	put(t, c, NodeKey("e1"), conf.Self) // the lasting record says nothing of it
	put(t, c, EdgeKey("e2"), &controlpb.EdgeRecord{Edge: "e2", Drain: true})
	eventually(t, watcher, "e2 is drained", func(v *View) bool { return v.Leaving("e2") })
	if !watcher.View().Leaving("e1") {
		t.Error("the lasting record ended the leaving")
	}
	c.SetLeaving(false)
	eventually(t, watcher, "e1 stays", func(v *View) bool { return !v.Leaving("e1") })
	c.SetLeaving(true)
	eventually(t, watcher, "e1 is leaving again", func(v *View) bool { return v.Leaving("e1") })
	stop()
	eventually(t, watcher, "e1 is gone, and so has left", func(v *View) bool { return !v.Nodes["e1"].Alive && !v.Leaving("e1") })
	stopWatcher()
	kept, err := loadCache(cache)
	if err != nil || !kept.Leaving("e2") {
		t.Errorf("the copy on disk lacks the order: %v", err)
	}
	d := newDraft(kept)
	if errs := d.relist(nil); len(errs) > 0 || d.finish(1).Leaving("e2") {
		t.Errorf("an order that is withdrawn stays: %v", errs)
	}
}

func TestListsAnewAfterCompaction(t *testing.T) {
	s := newStore(t)
	c, stop := run(t, s.config(""))
	if err := c.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, c, CellKey("c1"), &controlpb.CellRecord{Cell: "c1"})
	eventually(t, c, "c1", func(v *View) bool { return v.Cells["c1"] != nil })
	from := c.View().Revision
	put(t, c, CellKey("c2"), &controlpb.CellRecord{Cell: "c2"})
	eventually(t, c, "c2", func(v *View) bool { return v.Cells["c2"] != nil })
	if _, err := c.Etcd().Compact(t.Context(), c.View().Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	// A watch from before the compaction ends with an error, and following
	// begins with a listing.
	if err := c.watch(t.Context(), from); err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("watching from a compacted revision: %v", err)
	}
	if _, err := c.Etcd().Delete(t.Context(), CellKey("c1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "c1 removed", func(v *View) bool { return v.Cells["c1"] == nil })
	stop()
}

func TestRelistKeepsAddressesAndRoutes(t *testing.T) {
	d := newDraft(&View{})
	for key, m := range map[string]proto.Message{
		NodeKey("c1-n1"): node("c1-n1", "c1", "127.0.0.1:1", "chat"), AliveKey("c1-n1"): node("c1-n1", "c1", "127.0.0.1:1", "chat"),
		RangeKey(7): someRange(7, 5, "c1"), CellKey("c1"): &controlpb.CellRecord{Cell: "c1"}, KeyKey("k"): &controlpb.KeyRecord{Kid: "k"},
	} {
		value, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	before := d.finish(9)
	older, err := proto.Marshal(someRange(7, 4, "c9"))
	if err != nil {
		t.Fatal(err)
	}
	d = newDraft(before)
	if errs := d.relist([]pair{{Key: RangeKey(7), Value: older}}); len(errs) != 0 {
		t.Fatal(errs)
	}
	after := d.finish(10)
	if n := after.Nodes["c1-n1"]; n.Alive || n.Record.GetAddr() == "" {
		t.Errorf("node %+v: want gone, with its address", n)
	}
	if after.Ranges[7].Epoch != 5 || after.Routes.Len() != 1 {
		t.Errorf("ownership went back: %v", after.Ranges[7])
	}
	if len(after.Keys) != 0 || len(after.Cells) != 0 {
		t.Error("withdrawn keys or cells stayed")
	}
	if !before.Nodes["c1-n1"].Alive || len(before.Keys) != 1 {
		t.Error("the earlier view was changed")
	}
}

func TestDamagedCopyIsNotUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.json")
	d := newDraft(&View{})
	value, err := proto.Marshal(someRange(7, 5, "c1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.put(RangeKey(7), value); err != nil {
		t.Fatal(err)
	}
	if err := saveCache(file, d.finish(1)); err != nil {
		t.Fatal(err)
	}
	if v, err := loadCache(file); err != nil || v.Routes.Len() != 1 {
		t.Fatalf("the copy is not read back: %v", err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"cut": string(good[:len(good)/2]), "changed": strings.Replace(string(good), fmt.Sprintf("%016x", 7), fmt.Sprintf("%016x", 8), 1),
		"newer": strings.Replace(string(good), `"format":1`, `"format":2`, 1),
	} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if v, err := loadCache(file); err == nil || v.Routes.Len() != 0 {
			t.Errorf("%s: used, %v", name, err)
		}
	}
}

func TestErrorsSurviveGRPC(t *testing.T) {
	in := waggle.Errorf(waggle.CodeRateLimited, "too many logins of ann: wait")
	out := waggle.AsError(FromStatus(ToStatus(in)))
	if *out != *in {
		t.Errorf("got %+v, want %+v", out, in)
	}
	if ToStatus(nil) != nil || FromStatus(nil) != nil {
		t.Error("nil became an error")
	}
	if code := waggle.CodeOf(FromStatus(fmt.Errorf("broken pipe"))); code != waggle.CodeUnavailable {
		t.Errorf("a broken connection became %s", code)
	}
}

// silentWatcher is the watch of an etcd that went away: its channel stays open
// and nothing comes, whatever becomes of the context.
type silentWatcher struct{ clientv3.Watcher }

func (silentWatcher) Watch(context.Context, string, ...clientv3.OpOption) clientv3.WatchChan {
	return make(chan clientv3.WatchResponse)
}

// A client ends when it is told to, also under a watch that does not.
func TestEndsUnderASilentWatch(t *testing.T) {
	s := newStore(t)
	c, err := New(s.config(""))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.etcd.Watcher = silentWatcher{c.etcd.Watcher}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }() // awaited below
	if err := c.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(checkInterval / 2):
		t.Fatal("the client does not end")
	}
}
