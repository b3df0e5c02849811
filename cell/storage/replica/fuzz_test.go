package replica

import (
	"context"
	"testing"

	pb "google.golang.org/protobuf/proto"

	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Whatever another node sends, at worst the replica it is for stops: the node
// and its other replicas go on.
func FuzzReceive(f *testing.F) {
	for _, b := range []*cellpb.RaftBatch{
		{From: "n2", Alive: true, Quiet: []*cellpb.QuietGroup{{Range: 1, Term: 1, Index: 1, FromReplica: 2}}},
		{Messages: []*cellpb.RaftMessage{{Range: 1, FromReplica: 2, ToReplica: 1, Message: mustMarshal(heartbeat(2, 1))}}},
	} {
		f.Add(mustMarshal(b))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := new(cellpb.RaftBatch)
		if err := pb.Unmarshal(raw, b); err != nil {
			t.Skip()
		}
		c := newCluster(t, 1, nil)
		n := c.nodes[0]
		d := &cellpb.Descriptor{Range: 1, Replicas: []*cellpb.Replica{{Id: 1, Node: "n1"}, {Id: 2, Node: "n2"}}}
		if err := n.node.Create(t.Context(), &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: 1}); err != nil {
			t.Fatal(err)
		}
		c.create(2)
		c.settle()
		_ = n.node.Receive("n2", b)
		for range 3 {
			c.tick()
		}
		c.must(n, 2, "the others go on")
	})
}

// A snapshot stream of any content never changes a replica it is refused by.
func FuzzHandleSnapshot(f *testing.F) {
	f.Add(mustMarshal(&cellpb.SnapshotChunk{
		Pairs: []*cellpb.KeyValue{{Key: listKey(1, 1), Value: []byte("x")}}, Last: true, Checksum: 1,
	}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		chunk := new(cellpb.SnapshotChunk)
		if err := pb.Unmarshal(raw, chunk); err != nil {
			t.Skip()
		}
		chunk.Checksum = pairsChecksum(chunk.GetPairs()) // else little passes
		c := newCluster(t, 1, nil)
		n := c.nodes[0]
		in, err := n.node.writeTables(&scripted{chunks: []*cellpb.SnapshotChunk{chunk}}, 1, "snapshots/x")
		if err == nil && (in.at.index == 0 && len(in.files) != 2 || !chunk.GetLast()) {
			t.Errorf("accepted %v", chunk)
		}
		answer := &ackCatcher{scripted: scripted{chunks: []*cellpb.SnapshotChunk{chunk}}}
		if err := n.node.HandleSnapshot(answer); err != nil || answer.ack == nil || answer.ack.GetDone() {
			t.Errorf("a stream for no replica was answered %v, %v", answer.ack, err)
		}
	})
}

type ackCatcher struct {
	scripted
	ack *cellpb.SnapshotAck
}

func (a *ackCatcher) Send(ack *cellpb.SnapshotAck) error { a.ack = ack; return nil }
func (a *ackCatcher) Context() context.Context           { return context.Background() }

func mustMarshal(m pb.Message) []byte {
	raw, err := pb.Marshal(m)
	if err != nil {
		panic(err)
	}
	return raw
}
