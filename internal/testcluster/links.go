//go:build unix

package testcluster

import (
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/faultlink"
	"github.com/waggle-im/waggle/internal/testservers"
)

// Links are bad links in front of every node of a cluster of processes, and
// between its clients and its edge.
type Links struct {
	Nodes map[string]*faultlink.TCP // by the node that is called over it
	TCP   *faultlink.TCP            // clients to the edge
	QUIC  *faultlink.UDP
}

// StartLinked is [StartProcesses] with links that can be made bad: every node
// is called through one, and the devices of [Cluster.Connect] reach the edge
// through one.
func StartLinked(t testing.TB, o devcluster.Options) (*Cluster, *Links) {
	t.Helper()
	if o.DataDir == "" {
		o.DataDir = t.TempDir()
	}
	o.Procs = true
	nodes, err := devcluster.Nodes(o)
	if err != nil {
		t.Fatal(err)
	}
	links := &Links{Nodes: map[string]*faultlink.TCP{}}
	via := map[string]string{}
	for _, node := range nodes {
		link, err := faultlink.ListenTCP("127.0.0.1:0", func() (string, error) { return devcluster.Listens(o.DataDir, node) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = link.Close() })
		links.Nodes[node], via[node] = link, link.Addr()
	}
	if err := devcluster.WriteVia(o, via); err != nil {
		t.Fatal(err)
	}
	o.Listen = testservers.FreeAddr(t)
	edge := func() (string, error) { return o.Listen, nil }
	if links.TCP, err = faultlink.ListenTCP("127.0.0.1:0", edge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = links.TCP.Close() })
	if links.QUIC, err = faultlink.ListenUDP("127.0.0.1:0", 1, edge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = links.QUIC.Close() })
	c := StartProcesses(t, o)
	c.servers = map[client.Transport]string{client.TCP: links.TCP.Addr(), client.QUIC: links.QUIC.Addr()}
	return c, links
}

// Edge makes both links between clients and edge the same.
func (l *Links) Edge(q faultlink.Quality) {
	l.TCP.Set(q)
	l.QUIC.Set(q)
}

// In is the cluster as a subtest sees it: what is made in it ends with it.
func (c *Cluster) In(t testing.TB) *Cluster {
	inner := *c
	inner.t = t
	return &inner
}
