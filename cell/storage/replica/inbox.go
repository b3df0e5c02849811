package replica

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// inbox is what waits for the loop. It is bounded: messages by count and
// bytes (Raft sends again what is dropped), proposals and reads by each
// group's own limits, calls by construction (at most one per group of each
// kind, and one per node and stream).
type inbox struct {
	messagesMax, bytesMax int
	wake                  chan struct{} // holds one token while anything waits

	mu     sync.Mutex // guards the fields below
	items  []received
	bytes  int
	props  []*proposal
	reads  []readRequest
	calls  []func()
	closed bool
}

// received is one thing another node said; exactly one of msg, quiet, joint and
// alive is set.
type received struct {
	from  proto.NodeID
	rng   proto.RangeID
	to    uint64 // the replica it is for
	msg   *raftpb.Message
	quiet *cellpb.QuietGroup
	joint *cellpb.JointNote
	alive bool
	rules uint32 // with alive
}

type readRequest struct {
	g    *group
	done func(error)
}

// work is what one round takes out of the inbox.
type work struct {
	items []received
	props []*proposal
	reads []readRequest
	calls []func()
}

func newInbox(messagesMax, bytesMax int) *inbox {
	return &inbox{messagesMax: messagesMax, bytesMax: bytesMax, wake: make(chan struct{}, 1)}
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// receive takes what fits and returns how many items were dropped.
func (b *inbox) receive(items []received, bytes int) (dropped int) {
	b.mu.Lock()
	switch {
	case b.closed, len(b.items)+len(items) > b.messagesMax, b.bytes+bytes > b.bytesMax && len(b.items) > 0:
		dropped = len(items)
	default:
		b.items = append(b.items, items...)
		b.bytes += bytes
	}
	b.mu.Unlock()
	b.signal()
	return dropped
}

// propose, read and call are false once the node has stopped.
func (b *inbox) propose(p *proposal) bool {
	return b.put(func() { b.props = append(b.props, p) })
}

func (b *inbox) read(r readRequest) bool {
	return b.put(func() { b.reads = append(b.reads, r) })
}

// call runs f on the loop.
func (b *inbox) call(f func()) bool {
	return b.put(func() { b.calls = append(b.calls, f) })
}

func (b *inbox) put(add func()) bool {
	b.mu.Lock()
	open := !b.closed
	if open {
		add()
	}
	b.mu.Unlock()
	if open {
		b.signal()
	}
	return open
}

// take empties the inbox.
func (b *inbox) take() work {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := work{items: b.items, props: b.props, reads: b.reads, calls: b.calls}
	b.items, b.props, b.reads, b.calls, b.bytes = nil, nil, nil, nil, 0
	return w
}

// close refuses everything from now on and returns what was waiting.
func (b *inbox) close() work {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	return b.take()
}

// waiting tells whether anything waits.
func (b *inbox) waiting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.items)+len(b.props)+len(b.reads)+len(b.calls) > 0
}
