// Package testcluster runs a whole cluster inside a test: real edges, cells,
// control plane, etcd and sockets on loopback, in one process, on ports and a
// directory of its own.
package testcluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
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
	conn    *grpc.ClientConn
	verbs   controlpb.OperatorClient
}

// FreeAddr is a loopback address nobody uses just now.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start runs a cluster until the test ends. Addresses and directory are
// chosen where o leaves them empty. It returns when a message has gone round.
func Start(t testing.TB, o devcluster.Options) *Cluster {
	t.Helper()
	for _, addr := range []*string{&o.Listen, &o.Plaintext, &o.Admin} {
		if *addr == "" {
			*addr = FreeAddr(t)
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
	ctx, cancel := context.WithTimeout(context.Background(), Wait)
	defer cancel()
	stream, err := c.verbs.AddAccounts(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	req := &controlpb.AddAccountRequest{Name: name, Email: name + "@example.org", Cell: cell, WithToken: true}
	if err := stream.Send(req); err != nil {
		c.t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		c.t.Fatal(err)
	}
	reply, err := stream.Recv()
	if err == nil {
		err = proto.FromWire(reply.Code, reply.Message, 0)
	}
	if err != nil {
		c.t.Fatalf("add account %s: %v", name, err)
	}
	return User{ID: proto.EntityID(reply.User), Name: name, Token: reply.Token, Device: reply.Device}
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
