//go:build unix

package testcluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// digest asks a node for the digest of a range as of an index.
func (c *Cluster) digest(node string, r proto.RangeID, index uint64) (uint64, error) {
	nodes, err := c.verbs.ListNodes(c.Context(), &controlpb.ListNodesRequest{})
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(nodes.Nodes, func(n *controlpb.NodeStatus) bool { return n.Node == node })
	if i < 0 {
		return 0, fmt.Errorf("there is no node %s", node)
	}
	conn, err := c.dialNode(node, nodes.Nodes[i].Addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := cellpb.NewStorageClient(conn).DigestRange(ctx, &cellpb.DigestRangeRequest{Range: uint64(r), Index: index})
	return reply.GetDigest(), err
}

// digests asks nodes for the digest of a range as of one index, a little ahead
// of all of them; the leader, which must be among them, fills its log up to it.
func (c *Cluster) digests(r proto.RangeID, nodes []string) (map[string]uint64, error) {
	c.t.Helper()
	index := uint64(0)
	for _, n := range nodes {
		for _, st := range c.Replicas(n) {
			if st.Descriptor_.GetRange() == uint64(r) {
				index = max(index, st.Applied)
			}
		}
	}
	type answer struct {
		node   string
		digest uint64
		err    error
	}
	answers := make(chan answer)
	for _, n := range nodes {
		go func() {
			d, err := c.digest(n, r, index+200)
			answers <- answer{n, d, err}
		}()
	}
	var errs []error
	out := map[string]uint64{}
	for range nodes {
		a := <-answers
		out[a.node] = a.digest
		if a.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.node, a.err))
		}
	}
	return out, errors.Join(errs...)
}

// equalDigests fails if replicas of a range differ.
func (c *Cluster) equalDigests(r proto.RangeID, nodes []string) {
	c.t.Helper()
	c.Until("all replicas are digested", func() error {
		digests, err := c.digests(r, nodes)
		if err != nil {
			return err
		}
		for _, d := range digests {
			if d != digests[nodes[0]] {
				c.t.Fatalf("replicas of range %s differ: %x", r, digests)
			}
		}
		return nil
	})
}

// A bit of a table flips on one of three replicas. Once that part is read, the
// replica stops, is named, and is replaced, on the same node where the cell
// has no other; people do not notice.
func TestADamagedReplicaIsReplaced(t *testing.T) {
	c := StartProcesses(t, devcluster.Options{Replicas: 3, RestartAfter: 3 * time.Second})
	ann, eve := c.AddUser("ann", "c1"), c.AddUser("eve", "c1")
	thread := proto.DirectThread(ann.ID, eve.ID)
	a := c.Connect(ann, client.TCP, nil)
	// Texts that cannot be compressed: nearly all of the store is theirs, and
	// so is its middle. All of them stay in the leader's log while a follower is
	// away (replica.Config.LogKeepBytes): one that comes back to a log that was
	// cut gets a snapshot, which takes the place of the damaged rows.
	random := make([]byte, proto.TextBytesMax/2)
	var pending []*client.Pending
	for range 30 {
		_, _ = rand.Read(random)
		p, err := a.Post(thread.String(), hex.EncodeToString(random))
		if err != nil {
			t.Fatal(err)
		}
		pending = append(pending, p)
	}
	for _, p := range pending {
		if _, err := p.Result(c.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l := c.StartLoad(2, 10)
	r := thread.OwnerRange()
	before := c.Range(r)
	victim := before.Voters[slices.IndexFunc(before.Voters, func(v string) bool { return v != before.Leader })]
	c.equalDigests(r, before.Voters)
	c.Kill(victim) // what was in its write-ahead log is in tables after the start
	c.UntilSettled()
	replica := func() uint64 {
		for _, st := range c.Replicas(victim) {
			if st.Descriptor_.GetRange() == uint64(r) {
				return st.Replica
			}
		}
		return 0
	}
	was := replica()
	pid := c.Pids()[victim]
	c.Signal(victim, syscall.SIGKILL)
	flipLargest(t, filepath.Join(c.options.DataDir, victim, "state"))
	c.Until(victim+" has been started again", func() error {
		if now := c.Pids()[victim]; now == 0 || now == pid {
			return fmt.Errorf("its process is %d", now)
		}
		return nil
	})
	// Reading everything meets the damage, if the start has not met it already.
	// Nothing but that has the replica replaced.
	c.Until("the replica is replaced", func() error {
		_, err := c.digests(r, []string{victim, c.Range(r).Leader})
		st := c.Range(r)
		if now := replica(); now == was || now == 0 || len(st.Voters) != 3 || len(st.Learners) > 0 {
			return fmt.Errorf("replica %d was %d; %v; %w", now, was, st, err)
		}
		return nil
	})
	c.UntilSettled()
	c.equalDigests(r, c.Range(r).Voters)
	if n := l.Losses(client.TCP) + l.Losses(client.QUIC); n > 0 {
		t.Errorf("%d connections were lost", n)
	}
	l.Check()
}

// flipLargest flips a bit in the middle of the largest table in a folder.
func flipLargest(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables in %s: %v", dir, err)
	}
	size := func(f string) int64 {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	largest := slices.MaxFunc(files, func(a, b string) int { return int(size(a) - size(b)) })
	raw, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 0x10
	if err := os.WriteFile(largest, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("flipped a bit in the middle of %s, %d bytes", filepath.Base(largest), len(raw))
}
