package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

const (
	// pollInterval is how often a verb that waits asks how far it is.
	pollInterval = 200 * time.Millisecond
	// pollPatience is how long it goes on asking while nobody answers: a
	// control plane that is started again is back by then.
	pollPatience = 30 * time.Second
	// standbyDefault is how long old replicas are kept for going back.
	standbyDefault = time.Hour
)

// changing are the flags of verbs that change where things are.
type changing struct {
	*operator
	cmd         *cobra.Command
	yes, dryRun bool
	wait        bool
	rate        uint64
	see         string // the command that shows how it goes on
}

func (a *app) changingFlags(cmd *cobra.Command, waits bool) *changing {
	c := &changing{operator: a.operatorFlags(cmd, defaultTimeout), cmd: cmd, see: "waggle moves ls"}
	f := cmd.Flags()
	f.BoolVar(&c.yes, "yes", false, "do not ask")
	f.BoolVar(&c.dryRun, "dry-run", false, "say what would be done and do nothing")
	if waits {
		f.BoolVar(&c.wait, "wait", false, "wait until it is done; --timeout counts then only if it is given")
		f.Uint64Var(&c.rate, "rate", 0, "copy each replica with at most so many `BYTES/S`; 0: as the nodes' own limit says")
	}
	return c
}

// who asks, for the record.
func who() string {
	host, _ := os.Hostname()
	if u, err := user.Current(); err == nil {
		return u.Username + "@" + host
	}
	return host
}

// until asks again and again until done says so, as long as --timeout allows
// where it is given.
func (c *changing) until(ctx context.Context, done func(context.Context, controlpb.OperatorClient) (bool, error)) error {
	limited := c.cmd.Flags().Changed("timeout") && c.timeout > 0
	deadline := time.Now().Add(c.timeout)
	answered := time.Now()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		var over bool
		err := c.call(ctx, func(ctx context.Context, client controlpb.OperatorClient) (err error) {
			over, err = done(ctx, client)
			return err
		})
		switch {
		case err == nil && over:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted: what was asked for goes on, see `%s`", c.see)
		case limited && time.Now().After(deadline):
			return timedOut(fmt.Errorf("not done within %s: it goes on, see `%s`", c.timeout, c.see))
		case err == nil:
			answered = time.Now()
		case proto.CodeOf(err) != proto.CodeUnavailable || time.Since(answered) > pollPatience:
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// waitMove waits until a move is made or cancelled and tells its progress.
func (c *changing) waitMove(ctx context.Context, id string) (m moveJSON, err error) {
	told := ""
	err = c.until(ctx, func(ctx context.Context, client controlpb.OperatorClient) (bool, error) {
		r, err := client.ListMoves(ctx, &controlpb.ListMovesRequest{Move: id})
		if err != nil || len(r.Moves) == 0 {
			return false, err
		}
		m = moveOf(r.Moves[0])
		if line := m.progress(); line != told {
			told = line
			fmt.Fprintln(c.a.err, line)
		}
		return move.Phase(m.State).Settled(), nil
	})
	if err == nil && m.State == string(move.Cancelled) {
		err = fmt.Errorf("move %s was cancelled: %s", id, m.Error)
	}
	return m, err
}

func (m moveJSON) progress() string {
	s := fmt.Sprintf("%s: range %s, %s to %s: %s", m.Move, m.Range, m.From, m.To, m.State)
	if move.Phase(m.State).Copying() {
		s += fmt.Sprintf(", %s of %s copied", percent(m.Percent/100), byteSize(m.Bytes))
	}
	if m.Error != "" {
		s += " (" + m.Error + ")"
	}
	return s
}

func parseRange(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, usagef("%q is not a range: `waggle ranges ls` lists them", s)
	}
	return n, nil
}

func (a *app) moveRange() *cobra.Command {
	req := &controlpb.MoveRangeRequest{By: who()}
	standby := standbyDefault
	cmd := &cobra.Command{
		Use: "move R --to C", Short: "move a range to another cell", Args: args(1, 1),
		Long: "Moves a range to another cell while its people chat. Its old replicas are kept\n" +
			"for a while, so that `waggle moves revert` takes it back at once.",
		Example: "  waggle ranges move 3 --to c2 --dry-run\n  waggle ranges move 3 --to c2 --wait --yes",
	}
	c := a.changingFlags(cmd, true)
	cmd.Flags().StringVar(&req.To, "to", "", "the `CELL` that gets it")
	cmd.Flags().DurationVar(&standby, "standby", standby, "keep the old replicas so long")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if req.Range, err = parseRange(args[0]); err != nil {
			return err
		}
		if req.To == "" {
			return usagef("--to is missing: which cell gets the range?")
		}
		req.StandbyMs, req.RateBytesPerS = standby.Milliseconds(), c.rate
		ask := func(dry bool) (r *controlpb.MoveRangeReply, err error) {
			req.DryRun = dry
			err = c.call(cmd.Context(), func(ctx context.Context, client controlpb.OperatorClient) (err error) {
				r, err = client.MoveRange(ctx, req)
				return err
			})
			return r, err
		}
		reply, err := ask(true)
		if err != nil {
			return err
		}
		if !c.dryRun {
			if err := a.confirm("Would "+startedOf(reply, true).text()+". Do it?", c.yes); err != nil {
				return err
			}
			if reply, err = ask(false); err != nil {
				return err
			}
		}
		started := startedOf(reply, c.dryRun)
		if c.wait && !c.dryRun {
			if started.moveJSON, err = c.waitMove(cmd.Context(), started.Move); err != nil {
				return err
			}
		}
		if c.output.value == "json" {
			return printDocument(a.out, started)
		}
		if c.dryRun {
			_, err = fmt.Fprintln(a.out, "would "+started.text())
			return err
		}
		return printTable(a.out, []moveJSON{started.moveJSON}, c.output.value == "wide", moveColumns())
	}
	return cmd
}

func (s startedJSON) text() string {
	rate := "as fast as the nodes' own limit allows"
	if s.RateBytes > 0 {
		rate = "at " + byteSize(s.RateBytes) + "/s"
	}
	return fmt.Sprintf("move range %s from %s to %s: copy %s to %v %s, in about %s, with an expected pause of at most %d ms",
		s.Range, s.From, s.To, byteSize(s.CopyBytes), s.Nodes, rate, time.Duration(s.DurationMs)*time.Millisecond, s.ExpectPauseMs)
}

func (a *app) moves() *cobra.Command {
	ls, one := lister(a, "move", moveColumns(), func(ctx context.Context, c controlpb.OperatorClient) ([]moveJSON, error) {
		r, err := c.ListMoves(ctx, &controlpb.ListMovesRequest{})
		return each(r.GetMoves(), moveOf), err
	})
	watch := &cobra.Command{Use: "watch M", Short: "tell a move's progress until it is made or cancelled", Args: args(1, 1)}
	w := &changing{operator: a.operatorFlags(watch, defaultTimeout), cmd: watch}
	watch.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := w.waitMove(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return showOne(w.operator, m, moveColumns())
	}
	cancel := a.moveVerb("cancel", "end a move whose range is not changing owner yet; the range stays where it is",
		func(ctx context.Context, c controlpb.OperatorClient, req *controlpb.MoveRequest) (*controlpb.MoveReply, error) {
			return c.CancelMove(ctx, req)
		})
	revert := a.moveVerb("revert", "move a range back to where it was, while its old replicas are kept",
		func(ctx context.Context, c controlpb.OperatorClient, req *controlpb.MoveRequest) (*controlpb.MoveReply, error) {
			return c.RevertMove(ctx, req)
		})
	return chooser(&cobra.Command{Use: "moves", Short: "moves of ranges: list, show, watch, cancel, revert"}, ls, one, watch, cancel, revert)
}

type moveCall func(context.Context, controlpb.OperatorClient, *controlpb.MoveRequest) (*controlpb.MoveReply, error)

// moveVerb makes cancel and revert.
func (a *app) moveVerb(verb, short string, call moveCall) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " M", Short: short, Args: args(1, 1)}
	c := a.changingFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ask := func(dry bool) (m moveJSON, err error) {
			err = c.call(cmd.Context(), func(ctx context.Context, client controlpb.OperatorClient) error {
				r, err := call(ctx, client, &controlpb.MoveRequest{Move: args[0], By: who(), DryRun: dry})
				m = moveOf(r.GetMove())
				return err
			})
			return m, err
		}
		m, err := ask(true)
		if err != nil {
			return err
		}
		if !c.dryRun {
			if err := a.confirm(fmt.Sprintf("%s: %s. Do it?", verb, m.progress()), c.yes); err != nil {
				return err
			}
			if m, err = ask(false); err != nil {
				return err
			}
		}
		return showOne(c.operator, m, moveColumns())
	}
	return cmd
}
