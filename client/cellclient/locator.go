package cellclient

import (
	"context"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

const (
	// WhoHostsTimeout bounds one question to one node.
	WhoHostsTimeout = 500 * time.Millisecond
	// hostWait is how long the node may wait for a host before it answers that
	// it knows of none: longer than a range is without one when it moves, and
	// little where the node cannot hear of it and another has to be asked.
	hostWait = 150 * time.Millisecond
	// hostHedge is after how long without an answer the next node is asked too:
	// which replica hears first of a new host cannot be known.
	hostHedge = 10 * time.Millisecond
)

// Target is where to send what concerns a range.
type Target struct {
	Node  proto.NodeID
	Cell  proto.CellID
	Epoch proto.Epoch
}

// Locator finds the host of a range: from what it learnt, else by asking the
// nodes of the owning cell. What it says may be stale; a refusal carries the
// newer route and goes back in through [Locator.Learn].
type Locator struct {
	directory Directory
	dialer    *Dialer

	mu      sync.Mutex // guards the fields below
	learnt  map[proto.RangeID]sharding.Route
	hosts   map[proto.RangeID]Target
	asking  map[proto.RangeID]*question
	nextTry map[proto.RangeID]int // rotates the first node asked
}

type question struct {
	done   chan struct{}
	target Target
	err    error
}

// NewLocator makes a locator.
func NewLocator(directory Directory, dialer *Dialer) *Locator {
	return &Locator{
		directory: directory,
		dialer:    dialer,
		learnt:    map[proto.RangeID]sharding.Route{},
		hosts:     map[proto.RangeID]Target{},
		asking:    map[proto.RangeID]*question{},
		nextTry:   map[proto.RangeID]int{},
	}
}

// Route is the newest route known of r.
func (l *Locator) Route(r proto.RangeID) (sharding.Route, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.routeLocked(r)
}

func (l *Locator) routeLocked(r proto.RangeID) (sharding.Route, bool) {
	published, ok := l.directory.Routes().Lookup(r)
	learnt, alsoLearnt := l.learnt[r]
	switch {
	case !alsoLearnt:
		return published, ok
	case ok && published.Epoch >= learnt.Epoch:
		delete(l.learnt, r)
		return published, true
	}
	return learnt, true
}

// Cached is the host of r if one is known, without asking anybody.
func (l *Locator) Cached(r proto.RangeID) (Target, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cachedLocked(r)
}

func (l *Locator) cachedLocked(r proto.RangeID) (Target, bool) {
	t, ok := l.hosts[r]
	if !ok {
		return Target{}, false
	}
	if route, known := l.routeLocked(r); known && route.Epoch > t.Epoch {
		delete(l.hosts, r)
		return Target{}, false
	}
	return t, true
}

// Learn takes in the route of a refusal or an answer. Older ones are ignored.
func (l *Locator) Learn(route *cellpb.Route) {
	if route == nil || route.Epoch == 0 {
		return
	}
	r := proto.RangeID(route.Range)
	l.mu.Lock()
	defer l.mu.Unlock()
	known, ok := l.routeLocked(r)
	if ok && known.Epoch > proto.Epoch(route.Epoch) {
		return
	}
	if !ok || known.Epoch < proto.Epoch(route.Epoch) {
		next := sharding.Route{Range: r, Cell: proto.CellID(route.Cell), Epoch: proto.Epoch(route.Epoch)}
		for _, n := range route.Nodes {
			next.Nodes = append(next.Nodes, proto.NodeID(n))
		}
		l.learnt[r] = next
		delete(l.hosts, r)
	}
	if route.Host != "" {
		l.hosts[r] = Target{Node: proto.NodeID(route.Host), Cell: proto.CellID(route.Cell), Epoch: proto.Epoch(route.Epoch)}
	}
}

// Forget drops the belief that node hosts r.
func (l *Locator) Forget(r proto.RangeID, node proto.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.hosts[r]; ok && t.Node == node {
		delete(l.hosts, r)
	}
}

// Host finds the host of r, asking one node of its cell after the other if
// none is cached. Questions about one range are joined.
//
// Errors: [proto.CodeNotReady] when the range has no route or nobody hosts
// it just now (retry later).
func (l *Locator) Host(ctx context.Context, r proto.RangeID) (Target, error) {
	l.mu.Lock()
	if t, ok := l.cachedLocked(r); ok {
		l.mu.Unlock()
		return t, nil
	}
	route, ok := l.routeLocked(r)
	if !ok {
		l.mu.Unlock()
		return Target{}, proto.Errorf(proto.CodeNotReady, "range %s has no route yet", r)
	}
	q := l.asking[r]
	if q == nil {
		q = &question{done: make(chan struct{})}
		l.asking[r] = q
		first := l.nextTry[r]
		l.nextTry[r] = first + 1
		// The question outlives this caller: others may have joined it. It
		// ends by itself after one time-out per node of the cell.
		go l.ask(route, q, first)
	}
	l.mu.Unlock()
	select {
	case <-q.done:
		return q.target, q.err
	case <-ctx.Done():
		return Target{}, proto.Errorf(proto.CodeNotReady, "no host of range %s was found in time", r)
	}
}

// ask asks the candidates, the next one when those before have said that they
// do not know or have not answered for a while, and takes the first host named.
func (l *Locator) ask(route sharding.Route, q *question, first int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q.err = proto.Errorf(proto.CodeNotReady, "nobody hosts range %s just now", route.Range)
	nodes := l.candidates(route)
	answers := make(chan *cellpb.Route, len(nodes))
	more := time.NewTimer(0)
	defer more.Stop()
	for asked, answered := 0, 0; q.err != nil && answered < len(nodes); {
		select {
		case <-more.C:
			if asked < len(nodes) {
				node := nodes[(first+asked)%len(nodes)]
				go func() { answers <- l.askNode(ctx, node, route.Range) }() // ends by ctx
				asked++
				more.Reset(hostHedge)
			}
		case found := <-answers:
			if answered++; answered == asked {
				more.Reset(0)
			}
			l.Learn(found)
			if found.GetHost() != "" && proto.Epoch(found.Epoch) >= route.Epoch {
				q.target = Target{Node: proto.NodeID(found.Host), Cell: proto.CellID(found.Cell), Epoch: proto.Epoch(found.Epoch)}
				q.err = nil
			}
		}
	}
	l.mu.Lock()
	delete(l.asking, route.Range)
	if q.err == nil {
		delete(l.nextTry, route.Range)
	}
	l.mu.Unlock()
	close(q.done)
}

// candidates are the replicas' nodes first, then the rest of the cell.
func (l *Locator) candidates(route sharding.Route) []proto.NodeID {
	nodes := append([]proto.NodeID(nil), route.Nodes...)
	seen := map[proto.NodeID]bool{}
	for _, n := range nodes {
		seen[n] = true
	}
	for _, n := range l.directory.CellNodes(route.Cell) {
		if !seen[n] {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// askNode is what a node says of the range, nil if nothing.
func (l *Locator) askNode(ctx context.Context, node proto.NodeID, r proto.RangeID) *cellpb.Route {
	conn, err := l.dialer.Conn(node)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, WhoHostsTimeout)
	defer cancel()
	reply, err := cellpb.NewNodeClient(conn).WhoHosts(ctx, &cellpb.WhoHostsRequest{Ranges: []uint64{uint64(r)}, WaitMs: uint32(hostWait.Milliseconds())})
	if err != nil {
		return nil
	}
	for _, route := range reply.Routes {
		if route.Range == uint64(r) {
			return route
		}
	}
	return nil
}
