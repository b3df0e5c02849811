// Package testcluster runs a whole cluster inside a test: real edges, cells,
// control plane, etcd and sockets on loopback, in one process, on ports and a
// directory of its own.
package testcluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/testservers"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// Wait bounds every wait of a test: far above what anything takes on a slow
// machine, so that only what never comes fails.
const Wait = 60 * time.Second

// Cluster is a running cluster.
type Cluster struct {
	t       testing.TB
	options devcluster.Options
	cancel  context.CancelFunc
	done    chan error
	cluster *devcluster.Cluster

	// Of a cluster of processes.
	processes  bool
	supervisor *exec.Cmd
	config     string // a file of keys for all nodes
	died       <-chan struct{}

	servers map[client.Transport]string // where clients connect instead; see StartLinked

	conn  *grpc.ClientConn
	verbs controlpb.OperatorClient
}

// Start runs a cluster until the test ends. Addresses and directory are
// chosen where o leaves them empty. It returns when a message has gone round.
func Start(t testing.TB, o devcluster.Options) *Cluster {
	t.Helper()
	for _, addr := range []*string{&o.Listen, &o.Plaintext, &o.Admin} {
		if *addr == "" {
			*addr = testservers.FreeAddr(t)
		}
	}
	if o.DataDir == "" {
		o.DataDir = t.TempDir()
	}
	o.ReadyFile = filepath.Join(o.DataDir, "ready.json")
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	c := &Cluster{t: t, options: o}
	c.run()
	t.Cleanup(c.Stop)
	return c
}

func (c *Cluster) run() {
	c.t.Helper()
	_ = os.Remove(c.options.ReadyFile)
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.done = cancel, make(chan error, 1)
	done := c.done
	cluster, err := devcluster.New(c.options)
	if err != nil {
		c.t.Fatal(err)
	}
	c.cluster = cluster
	go func() { done <- cluster.Run(ctx) }() // awaited by Stop
	c.Until("the cluster is ready", func() error {
		select {
		case err := <-done:
			done <- err
			c.t.Fatalf("the cluster ended while starting: %v", err)
		default:
		}
		_, err := os.Stat(c.options.ReadyFile)
		return err
	})
	conn, err := grpc.NewClient("passthrough:///"+c.options.Admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.t.Fatal(err)
	}
	c.conn, c.verbs = conn, controlpb.NewOperatorClient(conn)
}

// Stop drains the cluster. It may be called again, and runs at the test's
// end anyway.
func (c *Cluster) Stop() {
	if c.cancel == nil {
		return
	}
	c.cancel()
	c.cancel = nil
	if c.conn != nil {
		_ = c.conn.Close()
	}
	select {
	case err := <-c.done:
		if err != nil {
			c.t.Errorf("the cluster stopped with: %v", err)
		}
	case <-time.After(Wait):
		c.t.Errorf("the cluster did not stop within %s", Wait)
	}
}

// Restart stops the cluster and starts it again on the same data.
func (c *Cluster) Restart() {
	c.t.Helper()
	c.Stop()
	c.run()
}

// StopNode stops one node; StartNode starts it again.
func (c *Cluster) StopNode(name string) { c.cluster.StopNode(name) }

// StartNode starts a node that StopNode has stopped.
func (c *Cluster) StartNode(name string) {
	c.t.Helper()
	if err := c.cluster.StartNode(context.Background(), name); err != nil {
		c.t.Fatal(err)
	}
}

// Options are those the cluster runs with.
func (c *Cluster) Options() devcluster.Options { return c.options }

// Operator calls operator verbs.
func (c *Cluster) Operator() controlpb.OperatorClient { return c.verbs }

// AddCell adds a cell and waits until it takes new users.
func (c *Cluster) AddCell(cell string) {
	c.t.Helper()
	if _, err := c.verbs.AddCell(c.Context(), &controlpb.AddCellRequest{Cell: cell}); err != nil {
		c.t.Fatal(err)
	}
	c.Until("cell "+cell+" is active", func() error {
		cells, err := c.verbs.ListCells(c.Context(), &controlpb.ListCellsRequest{})
		if err != nil {
			return err
		}
		for _, have := range cells.Cells {
			if have.Cell == cell && have.State == "active" && have.Ranges > 0 {
				return nil
			}
		}
		return fmt.Errorf("cells: %v", cells.Cells)
	})
}

// EdgeAddr is where an edge takes clients.
func (c *Cluster) EdgeAddr(edge string) string {
	c.t.Helper()
	edges, err := c.verbs.ListEdges(c.Context(), &controlpb.ListEdgesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range edges.Edges {
		if e.Edge == edge {
			return e.Tcp
		}
	}
	c.t.Fatalf("there is no edge %s: %v", edge, edges.Edges)
	return ""
}

// Until waits until f gives no error.
func (c *Cluster) Until(what string, f func() error) {
	c.t.Helper()
	deadline := time.Now().Add(Wait)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("waited %s in vain until %s: %v", Wait, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Context ends with the test or after [Wait].
func (c *Cluster) Context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Wait)
	c.t.Cleanup(cancel)
	return ctx
}

// User is an account with a logged-in device.
type User struct {
	ID     proto.EntityID
	Name   string
	Token  string
	Device string
}

// AddUser makes an account in a cell; cell may be empty.
func (c *Cluster) AddUser(name, cell string) User {
	c.t.Helper()
	u, err := c.TryAddUser(name, cell)
	if err != nil {
		c.t.Fatalf("add account %s: %v", name, err)
	}
	return u
}

// TryAddUser is AddUser for when it may fail.
func (c *Cluster) TryAddUser(name, cell string) (User, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Wait)
	defer cancel()
	stream, err := c.verbs.AddAccounts(ctx)
	if err != nil {
		return User{}, err
	}
	req := &controlpb.AddAccountRequest{Name: name, Email: name + "@example.org", Cell: cell, WithToken: true, Password: password}
	if err := stream.Send(req); err != nil {
		return User{}, err
	}
	if err := stream.CloseSend(); err != nil {
		return User{}, err
	}
	reply, err := stream.Recv()
	if err == nil {
		err = proto.FromWire(reply.Code, reply.Message, 0)
	}
	return User{ID: proto.EntityID(reply.GetUser()), Name: name, Token: reply.GetToken(), Device: reply.GetDevice()}, err
}

// password is every test user's.
const password = "correct-horse-battery"

// NewDevice logs u in on a further device.
func (c *Cluster) NewDevice(u User) User {
	c.t.Helper()
	u.Device = ""
	return c.LoginAgain(u)
}

// LoginAgain logs u's device in once more, over HTTP as people's clients do.
func (c *Cluster) LoginAgain(u User) User {
	c.t.Helper()
	body := fmt.Sprintf(`{"username":%q,"password":%q,"device":%q}`, u.Name, password, u.Device)
	https := &http.Client{Transport: &http.Transport{TLSClientConfig: c.TLS()}, Timeout: Wait}
	defer https.CloseIdleConnections()
	resp, err := https.Post("https://"+c.options.Listen+"/trylogin_server", "application/json", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token  string `json:"token"`
		Device string `json:"device"`
		Detail string `json:"detail"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		c.t.Fatalf("login of %s: %s %+v (%v)", u.Name, resp.Status, answer, err)
	}
	u.Token, u.Device = answer.Token, answer.Device
	return u
}

// Range is what the operator sees of a range.
func (c *Cluster) Range(r proto.RangeID) *controlpb.RangeStatus {
	c.t.Helper()
	var found *controlpb.RangeStatus
	c.Until("range "+r.String()+" has a leader", func() error {
		list, err := c.verbs.ListRanges(c.Context(), &controlpb.ListRangesRequest{})
		if err != nil {
			return err
		}
		for _, one := range list.Ranges {
			if one.Range == uint64(r) && one.Leader != "" {
				found = one
				return nil
			}
		}
		return fmt.Errorf("ranges: %v", list.Ranges)
	})
	return found
}

// UntilSettled waits until every range has a leader and a host, and every
// node is alive.
func (c *Cluster) UntilSettled() {
	c.t.Helper()
	c.Until("the cluster has settled", func() error {
		status, err := c.verbs.Status(c.Context(), &controlpb.StatusRequest{})
		if err != nil {
			return err
		}
		if len(status.Problems) > 0 {
			return fmt.Errorf("%v", status.Problems)
		}
		return nil
	})
}

// History reads a whole thread, oldest first.
func (c *Cluster) History(d *Device, thread string) []*clientpb.Event {
	c.t.Helper()
	var out []*clientpb.Event
	for {
		q := &clientpb.ReadHistory{Thread: thread, Limit: proto.PageMax}
		if len(out) > 0 {
			q.Before = out[0].Seq
		}
		events, more, err := d.Client.History(c.Context(), q)
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(events, out...)
		if !more {
			return out
		}
	}
}

// TLS trusts the cluster's certificate.
func (c *Cluster) TLS() *tls.Config {
	pool, err := certs.LoadPool(filepath.Join(c.options.DataDir, "ca.pem"))
	if err != nil {
		c.t.Fatal(err)
	}
	return &tls.Config{RootCAs: pool}
}

// Device is a connected client that records what it receives.
type Device struct {
	*client.Client
	User User

	mu      sync.Mutex // guards the fields below
	updates []client.Update
	states  []client.State
}

// Connect runs a client for u until the test ends. change may adjust its
// configuration. It returns when the client is connected.
func (c *Cluster) Connect(u User, transport client.Transport, change func(*client.Config)) *Device {
	c.t.Helper()
	d := &Device{User: u}
	cfg := client.Config{
		Server: c.options.Listen, Transport: transport, TLS: c.TLS(), Token: u.Token, Device: u.Device, Name: "testcluster",
		Subscribe: true, FromConfirmed: true, Logger: c.options.Logger,
		OnUpdate: func(u client.Update) {
			d.mu.Lock()
			d.updates = append(d.updates, u)
			d.mu.Unlock()
		},
		OnState: func(s client.State, _ error) {
			d.mu.Lock()
			d.states = append(d.states, s)
			d.mu.Unlock()
		},
	}
	if transport == client.Plain {
		cfg.Server = c.options.Plaintext
	}
	if addr := c.servers[transport]; addr != "" {
		cfg.Server = addr
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if d.Client, err = client.New(cfg); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // awaited by the clean-up
		defer close(done)
		_ = d.Client.Run(ctx)
	}()
	c.t.Cleanup(func() {
		cancel()
		<-done
	})
	waitCtx, stop := context.WithTimeout(ctx, Wait)
	defer stop()
	if err := d.WaitConnected(waitCtx); err != nil {
		c.t.Fatalf("%s does not connect: %v", u.Name, err)
	}
	return d
}

// Updates are the updates received so far.
func (d *Device) Updates() []client.Update {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]client.Update(nil), d.updates...)
}

// Disconnects counts how often the connection was lost.
func (d *Device) Disconnects() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, s := range d.states {
		if s == client.Disconnected {
			n++
		}
	}
	return n
}

// Texts are the texts received in a thread, by order of arrival.
func (d *Device) Texts(thread string) []string {
	var out []string
	for _, u := range d.Updates() {
		if u.Event.GetThread() == thread {
			out = append(out, u.Event.GetText().GetText())
		}
	}
	return out
}

// WaitTexts waits until a device has received n messages in a thread.
func (c *Cluster) WaitTexts(d *Device, thread string, n int) []string {
	c.t.Helper()
	var got []string
	c.Until(fmt.Sprintf("%s has %d messages", d.User.Name, n), func() error {
		if got = d.Texts(thread); len(got) < n {
			return fmt.Errorf("has %d", len(got))
		}
		return nil
	})
	return got
}
