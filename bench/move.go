package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// moveTimeout bounds one move: a range of a benchmark is small.
	moveTimeout = 5 * time.Minute
	// moveLook is how often it is asked how far a move is. Each time the range's
	// nodes are asked too: more often is a load of its own.
	moveLook = 50 * time.Millisecond
	// moveMargin is what a pause is looked for in beside the time in which
	// the move was seen to change the owner.
	moveMargin = 250 * time.Millisecond
	// rangeAuto is the range where most of the run's users landed, of those
	// that are not where it is to move.
	rangeAuto = "auto"
)

// MoveConfig says what to move under which load. Its Duration bounds the whole.
type MoveConfig struct {
	RunConfig
	Range string        // decimal, or auto
	To    string        // cell
	Times int           // there, back, there …
	Rest  time.Duration // between two moves
}

// Validate says what is wrong.
func (c *MoveConfig) Validate() error {
	if err := c.RunConfig.Validate(); err != nil {
		return err
	}
	if _, err := strconv.ParseUint(c.Range, 10, 64); err != nil && c.Range != rangeAuto {
		return fmt.Errorf("--range %q: a range's number, or %s", c.Range, rangeAuto)
	}
	switch {
	case c.To == "":
		return errors.New("--to is missing: the cell to move to")
	case c.Times < 1:
		return fmt.Errorf("--times %d: from 1", c.Times)
	case c.Rest < 0:
		return fmt.Errorf("--rest %s: not below 0", c.Rest)
	}
	return nil
}

// Move moves a range while people write to each other, and writes the results
// to a folder. Its pause is, for each sender and move, the longest that a
// message to or from the range waited for its acknowledgement while the range
// changed owner; what a message waits anyway is part of it.
//
// Errors: what kept the measurement from being one, a move that did not end
// included.
func Move(ctx context.Context, cfg MoveConfig) (*Result, error) {
	if cfg.Users == 0 {
		cfg.Users = 2 * cfg.Pairs
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l, c, err := prepare(ctx, &cfg.RunConfig)
	if err != nil {
		return nil, err
	}
	defer c.close()
	defer l.close()
	mv, err := newMoves(ctx, c, l, cfg)
	if err != nil {
		return nil, err
	}
	l.pauses = mv.pauses
	l.beside = mv.run
	m, err := l.measure(ctx, c)
	if err != nil {
		return nil, err
	}
	if mv.failed != nil {
		return nil, mv.failed
	}
	cfg.Duration = time.Since(l.start) - cfg.WarmUp
	l.marks = mv.marks
	return l.judge(ctx, c, m)
}

// moves are the moves of one run.
type moves struct {
	cfg    MoveConfig
	c      *cluster
	l      *load
	rng    uint64
	home   string // the cell it comes from
	pauses *pauses
	marks  []mark
	failed error
}

func newMoves(ctx context.Context, c *cluster, l *load, cfg MoveConfig) (*moves, error) {
	users := map[uint64]int{}
	for _, p := range l.people {
		users[uint64(p.account.User.Range())]++
	}
	reply, err := c.operator.ListRanges(ctx, &controlpb.ListRangesRequest{})
	if err != nil {
		return nil, c.explain(err)
	}
	m := &moves{cfg: cfg, c: c, l: l}
	if m.rng, m.home, err = chooseRange(cfg, users, reply.Ranges); err != nil {
		return nil, err
	}
	cfg.say("range %d, with %d of the %d users, is in cell %s", m.rng, users[m.rng], len(l.people), m.home)
	m.pauses = &pauses{rng: proto.RangeID(m.rng)}
	return m, nil
}

// chooseRange is the range to move, and the cell it is in. users are those of
// the run, by range.
func chooseRange(cfg MoveConfig, users map[uint64]int, ranges []*controlpb.RangeStatus) (rng uint64, home string, err error) {
	homes := map[uint64]string{}
	for _, r := range ranges {
		homes[r.Range] = r.Cell
	}
	if cfg.Range == rangeAuto {
		for r, n := range users {
			if cell := homes[r]; cell == "" || cell == cfg.To {
				continue
			}
			if n > users[rng] || n == users[rng] && r < rng {
				rng = r
			}
		}
		if rng == 0 {
			return 0, "", fmt.Errorf("all users of the run are in cell %s already: more of them (--pairs), or another cell", cfg.To)
		}
		return rng, homes[rng], nil
	}
	rng, _ = strconv.ParseUint(cfg.Range, 10, 64)
	switch home = homes[rng]; {
	case home == "":
		return 0, "", fmt.Errorf("there is no range %d: `waggle ranges ls` lists them", rng)
	case home == cfg.To:
		return 0, "", fmt.Errorf("range %d is in cell %s already", rng, home)
	case users[rng] == 0:
		return 0, "", fmt.Errorf("none of the run's users landed in range %d: --range %s takes the one with most", rng, rangeAuto)
	}
	return rng, home, nil
}

// run makes the moves, one after the other.
func (m *moves) run(ctx context.Context) error {
	for i := range m.cfg.Times {
		to := m.cfg.To
		if i%2 == 1 {
			to = m.home
		}
		if i > 0 && !pause(ctx, m.cfg.Rest) {
			return ctx.Err()
		}
		if err := m.one(ctx, i, to); err != nil {
			m.failed = err
			return nil
		}
	}
	pause(ctx, moveMargin+time.Second)
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// one makes one move and waits for its end.
func (m *moves) one(ctx context.Context, number int, to string) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	started := time.Since(m.l.start)
	reply, err := m.c.operator.MoveRange(ctx, &controlpb.MoveRangeRequest{Range: m.rng, To: to, By: "waggle-bench"})
	if err != nil {
		return fmt.Errorf("move range %d to %s: %w", m.rng, to, err)
	}
	id, state := reply.Move.Move, ""
	var from, until time.Duration
	for {
		reply, err := m.c.operator.ListMoves(ctx, &controlpb.ListMovesRequest{Move: id})
		at := time.Since(m.l.start)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("move %s of range %d is %s after %s: `waggle moves show %s` says what it waits for", id, m.rng, state, moveTimeout, id)
		case err != nil || len(reply.Moves) == 0:
			pause(ctx, 10*moveLook) // the control plane may be among what is killed meanwhile
			continue
		}
		before := state
		state = reply.Moves[0].State
		switch state {
		case "planned", "seeding", "catching-up", "ready":
			from = at // the owner had not changed yet
		case "cancelled":
			return fmt.Errorf("move %s of range %d was cancelled: %s", id, m.rng, reply.Moves[0].Error)
		case "published", "standby", "done":
			until = at
		}
		if state != before && m.cfg.Times == 1 {
			m.cfg.say("%3.0f s: move %s is %s", at.Seconds(), id, state)
			m.marks = append(m.marks, mark{at, state})
		}
		if until > 0 {
			break
		}
		pause(ctx, moveLook)
	}
	if m.cfg.Times > 1 {
		m.marks = append(m.marks, mark{from, ""})
		m.cfg.say("%3.0f s: move %d, %s to %s, took %.1f s", until.Seconds(), number+1, id, to, (until - started).Seconds())
	}
	m.pauses.window(max(0, from-moveMargin), until+moveMargin)
	return nil
}

// pauses gathers how long messages to or from one range waited.
type pauses struct {
	rng proto.RangeID

	mu      sync.Mutex // guards the fields below
	waits   []wait
	windows [][2]time.Duration // of due times, in which the range changed owner
}

// wait is one message's.
type wait struct {
	sender  proto.EntityID
	at      time.Duration // due
	latency time.Duration
}

func (p *pauses) add(w wait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waits = append(p.waits, w)
}

func (p *pauses) window(from, until time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.windows = append(p.windows, [2]time.Duration{from, until})
}

// quantiles are over senders and moves: the longest that each sender waited
// while the range changed owner. nil where there was no move.
func (p *pauses) quantiles() *Quantiles {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := hdrhistogram.New(1, latencyMax.Microseconds(), 3)
	for _, w := range p.windows {
		longest := map[proto.EntityID]time.Duration{}
		for _, one := range p.waits {
			if one.at >= w[0] && one.at <= w[1] {
				longest[one.sender] = max(longest[one.sender], one.latency)
			}
		}
		for _, d := range longest {
			_ = h.RecordValue(min(max(d.Microseconds(), 1), latencyMax.Microseconds()))
		}
	}
	return quantilesOf(h)
}

// touches tells whether a message of that thread and sender needs the range.
func (p *pauses) touches(thread proto.ThreadID, from proto.EntityID) bool {
	return thread.OwnerRange() == p.rng || from.Range() == p.rng
}

// prepare makes the accounts of a load over an open cluster.
func prepare(ctx context.Context, cfg *RunConfig) (*load, *cluster, error) {
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, nil, err
	}
	c, err := openCluster(ctx, cfg.Admin)
	if err != nil {
		return nil, nil, err
	}
	l, err := func() (*load, error) {
		if err := c.enoughDescriptors(cfg.Users/max(cfg.Procs, 1)+2, cfg.Users); err != nil {
			return nil, err
		}
		p, err := newPlan(cfg.Users, cfg.Pairs, len(c.cells), cfg.Placement)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
			return nil, fmt.Errorf("bench: make the folder for the results: %w", err)
		}
		cells := make([]string, cfg.Users)
		for i, cell := range p.cells {
			cells[i] = c.cells[cell]
		}
		cfg.say("making %d accounts in %d cells", cfg.Users, len(c.cells))
		accounts, err := c.addAccounts(ctx, cells)
		if err != nil {
			return nil, err
		}
		return newLoad(cfg, tlsConfig, p, accounts), nil
	}()
	if err != nil {
		c.close()
		return nil, nil, err
	}
	return l, c, nil
}
