package testcluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/testservers"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// What a client gets wrong is answered with an error that names it, and
// nobody else notices.
func TestBadInputFromClients(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob, eve := c.AddUser("ann", "c1"), c.AddUser("bob", "c2"), c.AddUser("eve", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.TCP, nil)
	e := c.Connect(eve, client.QUIC, nil)
	ctx := c.Context()
	if _, err := a.Send(ctx, thread, "private"); err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct {
		err  error
		want proto.Code
	}{
		"writing to a foreign thread": {second(e.Send(ctx, thread, "hello")), proto.CodeNotMember},
		"reading a foreign thread":    {third(e.Client.History(ctx, &clientpb.ReadHistory{Thread: thread})), proto.CodeNotMember},
		"marking a foreign thread":    {second(e.MarkRead(ctx, thread, 1)), proto.CodeNotMember},
		"a user who does not exist":   {second(a.Send(ctx, proto.DirectThread(ann.ID, bob.ID+1000).String(), "x")), proto.CodeUnknownUser},
		"a user in no range":          {second(a.Send(ctx, proto.DirectThread(ann.ID, 1<<50).String(), "x")), proto.CodeUnknownUser},
		"a name nobody has":           {third(a.FindUser(ctx, "nobody")), proto.CodeUnknownUser},
		"a thread with oneself":       {second(a.Send(ctx, "d/"+ann.ID.String()+"/"+ann.ID.String(), "x")), proto.CodeBadRequest},
		"no thread":                   {second(a.Send(ctx, "nonsense", "x")), proto.CodeBadRequest},
		"an empty message":            {second(a.Send(ctx, thread, "")), proto.CodeBadRequest},
		"text that is not UTF-8":      {second(a.Send(ctx, thread, "\xff\xfe")), proto.CodeBadRequest},
	} {
		if proto.CodeOf(test.err) != test.want {
			t.Errorf("%s: got %v, want %s", what, test.err, test.want)
		} else if test.err.Error() == "" {
			t.Errorf("%s: the error has no words", what)
		}
	}
	for what, token := range map[string]string{
		"a wrong token":     ann.Token[:len(ann.Token)-8] + "AAAAAAAA",
		"another's token":   bob.Token,
		"no token":          "",
		"garbage for token": "garbage",
	} {
		r := c.Dial()
		r.Write(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
			ProtocolVersion: proto.ClientProtocolVersion, Token: token, Device: ann.Device,
		}}})
		if f := r.Read(); proto.Code(f.GetError().GetCode()) != proto.CodeBadToken || f.GetError().Message == "" {
			t.Errorf("%s is answered %v", what, f)
		}
	}
	// Undecodable bytes end their own connection only.
	r, _ := c.Login(ann, nil)
	r.WriteBytes([]byte{0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff})
	for {
		if _, err := r.ReadErr(); err != nil {
			break
		}
	}
	if _, err := a.Send(ctx, thread, "undisturbed"); err != nil {
		t.Error(err)
	}
	if n := a.Disconnects(); n != 0 {
		t.Errorf("ann was disconnected %d times", n)
	}
}

func second[A any](_ A, err error) error { return err }

func third[A, B any](_ A, _ B, err error) error { return err }

// What an operator gets wrong at the start is refused with an error that
// names it and the way out, and loses nothing.
func TestBadInputAtStart(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.TCP, nil)
	if _, err := a.Send(c.Context(), thread, "kept"); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, o devcluster.Options, words ...string) {
		t.Helper()
		o.NoDemo = true
		ctx, cancel := context.WithTimeout(context.Background(), Wait)
		defer cancel()
		err := devcluster.Run(ctx, o)
		if err == nil {
			t.Errorf("%s is accepted", what)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error %q does not say %q", what, err, w)
			}
		}
	}
	other := func() devcluster.Options {
		return devcluster.Options{DataDir: t.TempDir(), Listen: testservers.FreeAddr(t), Admin: testservers.FreeAddr(t)}
	}
	o := other()
	o.DataDir = c.Options().DataDir
	refused("a second cluster on the same data", o, o.DataDir, "another waggle")
	o = other()
	o.Listen = c.Options().Listen
	refused("a client port in use", o, "--listen", o.Listen)
	o = other()
	o.Admin = c.Options().Admin
	refused("an admin port in use", o, "--admin", o.Admin)
	o = other()
	o.Admin = "0.0.0.0:0"
	refused("an admin address for everyone", o, "--admin", "loopback")
	c.Stop()

	o = c.Options()
	o.Replicas = 3
	refused("other replicas", o, "--replicas 3", "contradicts")
	o = c.Options()
	o.Cells = 1
	refused("fewer cells", o, "--cells 1", "contradicts")
	o = c.Options()
	o.SplitRoles, o.SplitSet = true, true
	refused("split roles", o, "--split-roles", "contradicts")
	o = other()
	o.Override = func(cfg *daemon.Config) error { cfg.Log.Level = "loud"; return nil }
	refused("a wrong setting", o, "log.level", "loud")

	damage := func(file string) (restore func()) {
		t.Helper()
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.WriteFile(file, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, pattern := range []string{"cluster.json", "c1-n1/state/MANIFEST-*", "c1-n1/raftlog/MANIFEST-*", "accounts.db", "certs/e1.pem", "ca/ca-key.pem"} {
		files, err := filepath.Glob(filepath.Join(c.Options().DataDir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no such file (%v)", pattern, err)
		}
		restore := damage(files[len(files)-1])
		o := c.Options()
		if pattern == "certs/e1.pem" { // can be made anew
			restore()
			continue
		}
		refused("a damaged "+pattern, o, strings.Split(pattern, "/")[0])
		restore()
	}
	c.run()
	b := c.Connect(bob, client.TCP, nil)
	if h := c.History(b, thread); len(h) != 1 || h[0].GetText().GetText() != "kept" {
		t.Errorf("after all that the history is %v", h)
	}
	if l, err := net.Listen("tcp", c.Options().Admin); err == nil {
		_ = l.Close()
		t.Error("the admin port is free while the cluster runs")
	}
}

// A full disk refuses sends with an error that names it, keeps what was
// acknowledged, and sending goes on by itself when there is space again.
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	var spare atomic.Int64
	c := Start(t, devcluster.Options{NoDemo: true, Override: func(cfg *daemon.Config) error {
		cfg.Cell.DiskSpareBytes = spare.Load()
		return nil
	}})
	ann, eve := c.AddUser("ann", "c1"), c.AddUser("eve", "c1")
	thread := proto.DirectThread(ann.ID, eve.ID).String()
	a := c.Connect(ann, client.TCP, nil)
	ctx := c.Context()
	if _, err := a.Send(ctx, thread, "before"); err != nil {
		t.Fatal(err)
	}
	restart := func(bytes int64) {
		spare.Store(bytes)
		c.StopNode("c1-n1")
		c.StartNode("c1-n1")
	}
	restart(1 << 60) // more than any disk has left
	r, _ := c.Login(ann, nil)
	var refusal *clientpb.Error
	c.Until("a send is refused for the disk", func() error {
		refusal = r.Send(thread, proto.NewClientMsgID(time.Now()), nil, "refused").GetError()
		if proto.Code(refusal.GetCode()) != proto.CodeDiskFull {
			return fmt.Errorf("answered %v", refusal)
		}
		return nil
	})
	if !strings.Contains(refusal.Message, "c1-n1") || refusal.RetryMs == 0 {
		t.Errorf("the refusal %v does not name the disk or a time to wait", refusal)
	}
	waiting, err := a.Post(thread, "waits in the outbox")
	if err != nil {
		t.Fatal(err)
	}
	restart(0)
	if _, err := waiting.Result(ctx); err != nil {
		t.Fatal(err)
	}
	h := c.History(a, thread)
	if len(h) != 2 || h[0].GetText().GetText() != "before" || h[1].GetText().GetText() != "waits in the outbox" {
		t.Errorf("the history is %v", h)
	}
}
