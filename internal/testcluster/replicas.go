package testcluster

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// dialNode connects to a node as a control plane does.
func (c *Cluster) dialNode(node, addr string) (*grpc.ClientConn, error) {
	pair := certs.PairIn(filepath.Join(c.options.DataDir, "certs"), "cp1")
	identity, err := certs.LoadNode(pair.CertFile, pair.KeyFile, filepath.Join(c.options.DataDir, "ca", "ca.pem"))
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(proto.NodeID(node)))))
}

// replicasOf asks a node about its replicas.
func (c *Cluster) replicasOf(node, addr string) ([]*cellpb.ReplicaStatus, error) {
	conn, err := c.dialNode(node, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	reply, err := cellpb.NewNodeClient(conn).Ranges(ctx, &cellpb.RangesRequest{})
	if err != nil {
		return nil, err
	}
	return reply.Replicas, nil
}

// Replicas are a node's replicas.
func (c *Cluster) Replicas(node string) []*cellpb.ReplicaStatus {
	c.t.Helper()
	var out []*cellpb.ReplicaStatus
	c.Until("node "+node+" answers", func() error {
		nodes, err := c.verbs.ListNodes(c.Context(), &controlpb.ListNodesRequest{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Nodes {
			if n.Node == node {
				out, err = c.replicasOf(node, n.Addr)
				return err
			}
		}
		return fmt.Errorf("nodes: %v", nodes.Nodes)
	})
	return out
}

// ReplicaHashes waits until all replicas of every range have applied the same
// entries, and returns their running hashes. Nothing may be written meanwhile.
func (c *Cluster) ReplicaHashes() []history.Hash {
	c.t.Helper()
	var out []history.Hash
	c.Until("all replicas have applied the same", func() error {
		out = nil
		nodes, err := c.verbs.ListNodes(c.Context(), &controlpb.ListNodesRequest{})
		if err != nil {
			return err
		}
		applied := map[uint64]uint64{}
		for _, n := range nodes.Nodes {
			if n.Cell == "" || n.State != "alive" {
				continue // one that is dead for good is not asked; all others are back by now
			}
			replicas, err := c.replicasOf(n.Node, n.Addr)
			if err != nil {
				return fmt.Errorf("node %s: %w", n.Node, err)
			}
			for _, r := range replicas {
				id := r.Descriptor_.GetRange()
				if before, ok := applied[id]; ok && before != r.Applied {
					return fmt.Errorf("range %d: %s has applied %d, another %d", id, n.Node, r.Applied, before)
				}
				applied[id] = r.Applied
				out = append(out, history.Hash{
					Range: proto.RangeID(id), Replica: proto.ReplicaID(r.Replica), Index: r.Applied, Hash: r.RunningHash,
				})
			}
		}
		return nil
	})
	return out
}

// Metric sums a metric over the nodes of a cluster in one process, those
// whose labels contain label.
func (c *Cluster) Metric(name, label string) float64 {
	c.t.Helper()
	resp, err := http.Get("http://" + c.options.Admin + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	sum := 0.0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		line := lines.Text()
		if !strings.HasPrefix(line, name+"{") || !strings.Contains(line, label) {
			continue
		}
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			c.t.Fatalf("metric %q: %v", line, err)
		}
		sum += v
	}
	return sum
}
