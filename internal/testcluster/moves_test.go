//go:build unix

package testcluster

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/faultlink"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// The states of a move, in their order, from seeding on.
var moveStates = []string{"planned", "seeding", "catching-up", "ready", "joint", "owned", "published", "standby", "done"}

// Move begins a move and returns its name.
func (c *Cluster) Move(r proto.RangeID, to string) string {
	c.t.Helper()
	var id string
	c.Until(fmt.Sprintf("the move of range %s to %s is begun", r, to), func() error {
		reply, err := c.verbs.MoveRange(c.Context(), &controlpb.MoveRangeRequest{Range: uint64(r), To: to, By: "test"})
		if err == nil {
			id = reply.Move.Move
		}
		return err
	})
	return id
}

// UntilMove waits until a move is in the state or a later one.
func (c *Cluster) UntilMove(id, state string) *controlpb.MoveStatus {
	c.t.Helper()
	var status *controlpb.MoveStatus
	c.Until("move "+id+" is "+state, func() error {
		reply, err := c.verbs.ListMoves(c.Context(), &controlpb.ListMovesRequest{Move: id})
		if err != nil || len(reply.Moves) != 1 {
			return fmt.Errorf("%v, %w", reply, err)
		}
		status = reply.Moves[0]
		if at := slices.Index(moveStates, status.State); at < 0 || at < slices.Index(moveStates, state) {
			return fmt.Errorf("it is %s: %s", status.State, status.Error)
		}
		return nil
	})
	return status
}

// otherCell is the cell that a range may move to.
func otherCell(cell string) string {
	if cell == "c1" {
		return "c2"
	}
	return "c1"
}

// A range moves to the other cell and back while its people write to each
// other, with one and with three replicas: nobody is disconnected, no send
// fails, nothing is lost, doubled or reordered.
func TestPromise5AMoveIsNotNoticed(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			c := Start(t, devcluster.Options{Replicas: replicas})
			l := c.StartLoad(4, 20)
			r := l.people[0].device.User.ID.Range()
			for _, to := range []string{"c2", "c1"} {
				l.Slowest()
				done := c.UntilMove(c.Move(r, to), "done")
				c.Until("the range is in "+to, func() error {
					if st := c.Range(r); st.Cell != to {
						return fmt.Errorf("it is in %s", st.Cell)
					}
					return nil
				})
				t.Logf("to %s: writes stopped for %.1f ms, slowest acknowledgement %v", to, done.PauseMs, l.Slowest().Round(time.Millisecond))
			}
			if n := l.Losses(client.TCP) + l.Losses(client.QUIC); n > 0 {
				t.Errorf("%d connections were lost", n)
			}
			l.Check()
			if st := c.Range(r); st.Epoch != 3 || len(st.Voters) != replicas || len(st.Learners) > 0 {
				t.Errorf("the range after two moves: %v", st)
			}
		})
	}
}

// Whoever asks for the host of a range while it moves is not told "nobody just
// now": the answer waits, at the node that has just lost it, for the next host.
func TestWhoHostsWaitsForTheNextHost(t *testing.T) {
	c := Start(t, devcluster.Options{})
	r := c.AddUser("eve", "c1").ID.Range()
	node := c.Range(r).Leader
	nodes, err := c.verbs.ListNodes(c.Context(), &controlpb.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	addr := ""
	for _, n := range nodes.Nodes {
		if n.Node == node {
			addr = n.Addr
		}
	}
	conn, err := c.dialNode(node, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func() *cellpb.Route {
		reply, err := cellpb.NewNodeClient(conn).WhoHosts(c.Context(), &cellpb.WhoHostsRequest{Ranges: []uint64{uint64(r)}, WaitMs: 1000})
		if err != nil || len(reply.Routes) != 1 {
			t.Errorf("asked who hosts range %s: %v, %v", r, reply, err)
			return nil
		}
		return reply.Routes[0]
	}
	if host := ask().GetHost(); host != node {
		t.Fatalf("before the move %q hosts it, not %s", host, node)
	}
	asked, hostless := 0, 0
	arrived := make(chan string)
	go func() { // ends when the range has arrived, or with the test's time
		for {
			route := ask()
			asked++
			switch {
			case route == nil:
				arrived <- ""
				return
			case route.Host == "":
				hostless++
			case route.Cell == "c2":
				arrived <- route.Host
				return
			}
		}
	}()
	reply, err := c.verbs.MoveRange(c.Context(), &controlpb.MoveRangeRequest{Range: uint64(r), To: "c2", By: "test", StandbyMs: 60_000})
	if err != nil {
		t.Fatal(err)
	}
	if host := <-arrived; host != "c2-n1" {
		t.Errorf("after the move %q hosts it", host)
	}
	if hostless > 0 {
		t.Errorf("%d of %d answers named no host", hostless, asked)
	}
	c.UntilMove(reply.Move.Move, "standby")
}

// An edge, a host and a mover that were stopped wake after ten moves of the
// range (three in the short form): what they believe is refused, they are shown
// the way, and nothing is lost, doubled or reordered.
func TestWokenAfterTenMoves(t *testing.T) {
	moves := 3
	if long() {
		moves = 10
	}
	c := StartProcesses(t, devcluster.Options{Cells: 3, Replicas: 3, Edges: 2})
	l := c.StartLoad(3, 10)
	r := l.people[0].device.User.ID.Range()
	before := c.Range(r)
	// One more person of the range, on the edge that will sleep.
	eve, dan := c.AddUser("eve", "c1"), c.AddUser("dan", "c2")
	for i := 0; eve.ID.Range() != r; i++ {
		eve = c.AddUser(fmt.Sprintf("eve%d", i), "c1")
	}
	asleep := c.Connect(eve, client.TCP, func(cfg *client.Config) { cfg.Server = c.EdgeAddr("e2") })
	thread := proto.DirectThread(eve.ID, dan.ID).String()
	if _, err := asleep.Send(c.Context(), thread, "before"); err != nil {
		t.Fatal(err)
	}
	old := (&moveArena{c: c}).find("mover", before, before, nil)
	pids := c.Pids()
	for _, node := range []string{"e2", before.Leader, old} {
		if err := syscall.Kill(pids[node], syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	for i := range moves {
		to := []string{"c2", "c3"}[i%2]
		c.UntilMove(c.Move(r, to), "done")
	}
	for _, node := range []string{old, before.Leader, "e2"} {
		if err := syscall.Kill(pids[node], syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := asleep.Send(c.Context(), thread, "after"); err != nil {
		t.Errorf("a send over the edge that slept: %v", err)
	}
	c.UntilSettled()
	c.Until("the sleeper holds the range no more", func() error {
		for _, st := range c.Replicas(before.Leader) {
			if st.Descriptor_.GetRange() == uint64(r) {
				return fmt.Errorf("it holds replica %d", st.Replica)
			}
		}
		return nil
	})
	st := c.Range(r)
	if st.Epoch != before.Epoch+uint64(moves) || len(st.Voters) != 3 || slices.Contains(st.Voters, before.Leader) {
		t.Errorf("the range after %d moves is %v", moves, st)
	}
	l.Check()
}

// A thousand moves (six in the short form) leave goroutines, descriptors and
// memory where they were (I14).
func TestMovesLeaveNothingBehind(t *testing.T) {
	rounds := 2
	if long() {
		rounds = 333
	}
	c := StartProcesses(t, devcluster.Options{})
	l := c.StartLoad(3, 5)
	ranges := map[proto.RangeID]string{} // and where each is
	for _, p := range l.people {
		if r := p.device.User.ID.Range(); len(ranges) < 3 {
			ranges[r] = c.Range(r).Cell
		}
	}
	admins := c.Admins()
	nodes := []string{"e1", "c1-n1", "c2-n1", "cp1", "cp2"}
	moveAll := func() {
		ids := []string{}
		for r, cell := range ranges {
			ranges[r] = otherCell(cell)
			ids = append(ids, c.Move(r, ranges[r]))
		}
		for _, id := range ids {
			c.UntilMove(id, "done")
		}
	}
	moveAll() // there and back: what is made once is there now
	moveAll()
	before := map[string]Level{}
	for _, node := range nodes {
		before[node] = c.Level(admins[node])
	}
	for range rounds {
		moveAll()
	}
	for _, node := range nodes {
		var after Level
		c.Until(node+" is back at its level", func() error {
			after = c.Level(admins[node])
			was := before[node]
			if after.Goroutines > was.Goroutines+20 || after.Descriptors > was.Descriptors+20 || after.HeapBytes > was.HeapBytes+16<<20 {
				return fmt.Errorf("before %s, after %s", was, after)
			}
			return nil
		})
		t.Logf("%s before %s; after %d moves %s", node, before[node], rounds*len(ranges), after)
	}
	if n := l.Losses(client.TCP) + l.Losses(client.QUIC); n > 0 {
		t.Errorf("%d connections were lost", n)
	}
	l.Check()
}

// moveArena is a cluster of processes in which one range moves back and forth
// while things break.
type moveArena struct {
	c     *Cluster
	links *Links
}

// moveOutcome is one cell of the move matrix.
type moveOutcome struct {
	step, victim, fault string
	skip                string
	slowest             time.Duration
	lost, messages      int
	failed              bool
}

func (o moveOutcome) String() string {
	if o.skip != "" {
		return "– " + o.skip
	}
	verdict := "nothing lost, doubled or reordered"
	if o.failed {
		verdict = "**FAILED**"
	}
	return fmt.Sprintf("slowest acknowledgement %s; %d connections lost; %d messages, %s", o.slowest.Round(10*time.Millisecond), o.lost, o.messages, verdict)
}

// The victims and faults of the move matrix.
var (
	moveVictims = []string{"mover", "old leader", "old follower", "new leader", "new follower", "edge", "etcd"}
	// Where chat nodes are apart from storage.
	hostVictims = []string{"old host", "new host"}
	moveFaults  = []string{"kill", "stop 5 s", "cut link 5 s"}
)

// find is the node that a victim is, from what the range was before the move,
// what it is now, and where it goes.
func (a *moveArena) find(victim string, before, now *controlpb.RangeStatus, target []string) string {
	switch victim {
	case "mover":
		admins := a.c.Admins()
		for _, cp := range []string{"cp1", "cp2"} {
			if a.c.Gauges(admins[cp])["waggle_placement_elected"] == 1 {
				return cp
			}
		}
		return "cp1"
	case "old leader":
		return before.Leader
	case "old follower":
		for _, v := range before.Voters {
			if v != before.Leader {
				return v
			}
		}
	case "new leader":
		if slices.Contains(target, now.Leader) {
			return now.Leader
		}
		return target[0]
	case "new follower":
		for _, v := range target {
			if v != now.Leader {
				return v
			}
		}
	case "old host":
		return before.Host
	case "new host":
		return a.newHost(now, target[0])
	case "edge":
		return "e1"
	}
	return victim
}

// newHost is the chat node of the cell that a range goes to which hosts it, or
// one that may.
func (a *moveArena) newHost(now *controlpb.RangeStatus, target string) (host string) {
	list, err := a.c.verbs.ListNodes(a.c.Context(), &controlpb.ListNodesRequest{})
	if err != nil {
		a.c.t.Fatal(err)
	}
	cell := ""
	for _, n := range list.Nodes {
		if n.Node == target {
			cell = n.Cell
		}
	}
	for _, n := range list.Nodes {
		if n.Cell == cell && slices.Contains(n.Roles, "chat") && (host == "" || n.Node == now.Host) {
			host = n.Node
		}
	}
	return host
}

func (a *moveArena) inject(fault, node string) (mend func()) {
	switch fault {
	case "kill":
		a.c.Kill(node)
		return func() {}
	case "stop 5 s":
		pid := a.c.Pids()[node]
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			a.c.t.Fatal(err)
		}
		return func() {
			time.Sleep(faultLasts) // the fault itself
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	set := func(q faultlink.Quality) {
		if node == "e1" {
			a.links.Edge(q)
		} else {
			a.links.Nodes[node].Set(q)
		}
	}
	set(faultlink.Quality{Cut: true})
	return func() {
		time.Sleep(faultLasts) // the fault itself
		set(faultlink.Quality{})
	}
}

// try moves the range of the load's first person, breaks something at a step,
// and waits until the move is over and everything is well.
func (a *moveArena) try(t *testing.T, step, victim, fault string) moveOutcome {
	out := moveOutcome{step: step, victim: victim, fault: fault}
	t.Run(strings.ReplaceAll(fmt.Sprintf("%s/%s/%s", step, victim, fault), " ", "-"), func(t *testing.T) {
		whole := a.c
		a.c = whole.In(t)
		defer func() { whole.supervisor, whole.died = a.c.supervisor, a.c.died; a.c = whole }()
		defer func() { out.failed = t.Failed() }()
		l := a.c.StartLoad(4, 10)
		r := l.people[0].device.User.ID.Range()
		before := a.c.Range(r)
		to := otherCell(before.Cell)
		id := a.c.Move(r, to)
		reached := a.c.UntilMove(id, step)
		target := reached.Add
		node := a.find(victim, before, a.c.Range(r), target)
		l.Slowest()
		a.inject(fault, node)()
		a.c.UntilMove(id, "done")
		a.c.UntilSettled()
		a.c.Until("the range is in "+to, func() error {
			if st := a.c.Range(r); st.Cell != to || st.Leader == "" {
				return fmt.Errorf("it is %v", st)
			}
			return nil
		})
		out.messages = l.Check()
		out.slowest, out.lost = l.Slowest(), l.Losses(client.TCP)+l.Losses(client.QUIC)
		t.Logf("%s was %s: %s", victim, node, out)
	})
	return out
}

func newMoveArena(t *testing.T, split bool) *moveArena {
	t.Helper()
	a := &moveArena{}
	a.c, a.links = StartLinked(t, devcluster.Options{Replicas: 3, SplitRoles: split, DataDir: t.TempDir(), Procs: true})
	return a
}

// The move matrix in a short form: the steps at which something can go wrong,
// each with a victim that matters there.
func TestMoveMatrixShort(t *testing.T) {
	a := newMoveArena(t, false)
	for _, one := range []struct{ step, victim, fault string }{
		{"catching-up", "mover", "kill"}, {"joint", "old leader", "kill"}, {"joint", "new leader", "kill"}, {"owned", "new leader", "cut link 5 s"},
	} {
		a.try(t, one.step, one.victim, one.fault)
	}
}

// The hosts as victims, where they are not the leaders too.
func TestMoveMatrixOfHosts(t *testing.T) {
	a := newMoveArena(t, true)
	for _, one := range []struct{ step, victim, fault string }{
		{"catching-up", "old host", "kill"}, {"owned", "new host", "kill"},
	} {
		a.try(t, one.step, one.victim, one.fault)
	}
}

// Every step of a move, every victim, every fault. TORTURE_MOVES names the
// file the report goes to.
func TestMoveMatrixLong(t *testing.T) {
	if !long() {
		t.Skip("half an hour: LONG_TESTS=1 or make torture runs it")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Torture: the move matrix\n\n%s. A range with three replicas moves from one cell to the other while four pairs of people write, half on TCP, half on QUIC; "+
		"when the move reached a step, something broke. Every history was checked, and every move came to its end.\n\n| step | victim | fault | outcome |\n| --- | --- | --- | --- |\n",
		time.Now().UTC().Format(time.DateOnly))
	for _, part := range []struct {
		split   bool
		victims []string
	}{{false, moveVictims}, {true, hostVictims}} {
		// One cluster after the other: together they would be too much for a small machine.
		t.Run(strings.ReplaceAll(strings.Join(part.victims, ","), " ", "-"), func(t *testing.T) {
			a := newMoveArena(t, part.split)
			for _, step := range moveStates[1 : len(moveStates)-2] {
				for _, victim := range part.victims {
					for _, fault := range moveFaults {
						o := a.try(t, step, victim, fault)
						fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", step, victim, fault, o)
					}
				}
			}
		})
	}
	t.Log("\n" + b.String())
	if file := os.Getenv("TORTURE_MOVES"); file != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// While a range is copied, `moves ls` and `status` tell how far that is.
func TestAMoveTellsHowFarItIs(t *testing.T) {
	c := Start(t, devcluster.Options{})
	ann, bob := c.AddUser("moved", "c1"), c.AddUser("friend", "c1")
	if _, err := c.Connect(ann, client.TCP, nil).Send(c.Context(), proto.DirectThread(ann.ID, bob.ID).String(), "hello"); err != nil {
		t.Fatal(err)
	}
	id := c.Move(ann.ID.Range(), "c2")
	// The new replica must keep up for a second before the range changes owner.
	c.Until("the copy is said to be complete", func() error {
		list, err := c.verbs.ListMoves(c.Context(), &controlpb.ListMovesRequest{Move: id})
		if err != nil {
			return err
		}
		all, err := c.verbs.Status(c.Context(), &controlpb.StatusRequest{})
		if err != nil {
			return err
		}
		for _, moves := range [][]*controlpb.MoveStatus{list.Moves, all.Moves} {
			if len(moves) != 1 {
				return fmt.Errorf("%d moves are listed", len(moves))
			}
			if m := moves[0]; m.State != "ready" || m.Percent != 100 || m.LagEntries > 64 {
				return fmt.Errorf("it is %s, at %.0f %%", m.State, m.Percent)
			}
		}
		return nil
	})
	c.UntilMove(id, "done")
}
