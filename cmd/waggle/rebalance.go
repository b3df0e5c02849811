package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// rebalanceJSON is what came of a rebalance.
type rebalanceJSON struct {
	Planned   uint32     `json:"planned"`
	Moved     uint32     `json:"moved"`
	Cancelled uint32     `json:"cancelled"`
	Stopped   string     `json:"stopped"` // why it ended early; empty: it did not
	Moves     []moveJSON `json:"moves"`   // as last heard of
}

func (a *app) rebalance() *cobra.Command {
	var apply bool
	var budget string
	var latencyFloor, latencyFor time.Duration
	req := &controlpb.RunRebalanceRequest{By: who()}
	cmd := &cobra.Command{
		Use: "rebalance", Short: "plan moves that even out the cells' load, and make them", Args: args(0, 0),
		Long: "Plans moves from measured load (sessions, messages per second, bytes) until the\n" +
			"most and the least loaded cell differ by 10% of the mean per node. --apply makes\n" +
			"them, and stops with status 3 when people notice: when the time in which 99 of\n" +
			"100 sends are answered stays above --latency-factor times what it was before,\n" +
			"and above --latency-floor, for --latency-for, in a cell that a move touches.\n" +
			"What is being copied then is cancelled; what has moved stays.",
		Example: "  waggle ranges rebalance\n  waggle ranges rebalance --apply --budget 20000000,2 --yes",
	}
	c := a.changingFlags(cmd, false)
	f := cmd.Flags()
	f.BoolVar(&apply, "apply", false, "make the moves, until they are made; --timeout counts then only if it is given")
	f.StringVar(&budget, "budget", "", "copy at most `BYTES/S[,MOVES]`, of all moves together, and so many moves at a time; 0: as the nodes' own limit says; default 0,2")
	f.Uint32Var(&req.Moves, "most", 0, "at most so many `MOVES` in all; 0: no limit")
	f.Float64Var(&req.LatencyFactor, "latency-factor", 3, "how many times slower is too slow")
	f.DurationVar(&latencyFloor, "latency-floor", 50*time.Millisecond, "what is never too slow")
	f.DurationVar(&latencyFor, "latency-for", 5*time.Second, "how long it may be too slow")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if req.BytesPerS, req.AtOnce, err = parseBudget(budget); err != nil {
			return err
		}
		if req.LatencyFactor <= 0 || latencyFloor <= 0 || latencyFor <= 0 {
			return usagef("--latency-factor, --latency-floor and --latency-for are above 0")
		}
		req.LatencyFloorMs, req.LatencyForMs = latencyFloor.Milliseconds(), latencyFor.Milliseconds()
		var moves []plannedJSON
		err = c.call(cmd.Context(), func(ctx context.Context, client controlpb.OperatorClient) error {
			r, err := client.Rebalance(ctx, &controlpb.RebalanceRequest{Moves: req.Moves, By: req.By})
			moves = each(r.GetMoves(), plannedOf)
			return err
		})
		if err != nil {
			return err
		}
		if !apply || c.dryRun {
			return show(c.operator, moves, plannedColumns())
		}
		if len(moves) > 0 {
			if err := a.confirm(fmt.Sprintf("Would move %d ranges. Do it?", len(moves)), c.yes); err != nil {
				return err
			}
		}
		return c.runRebalance(cmd.Context(), req)
	}
	return cmd
}

// parseBudget reads BYTES/S[,MOVES].
func parseBudget(s string) (bytes uint64, moves uint32, err error) {
	rate, at, several := strings.Cut(s, ",")
	if rate != "" {
		if bytes, err = strconv.ParseUint(rate, 10, 64); err != nil {
			return 0, 0, usagef("--budget %s: %q is not a number of bytes per second", s, rate)
		}
	}
	if several {
		n, err := strconv.ParseUint(at, 10, 8)
		if err != nil || n == 0 {
			return 0, 0, usagef("--budget %s: %q is not a number of moves at a time", s, at)
		}
		moves = uint32(n)
	}
	return bytes, moves, nil
}

// runRebalance has the moves made and tells the progress.
func (c *changing) runRebalance(ctx context.Context, req *controlpb.RunRebalanceRequest) error {
	if !c.cmd.Flags().Changed("timeout") {
		c.timeout = 0
	}
	out := rebalanceJSON{Moves: []moveJSON{}}
	at := map[string]int{}
	err := c.call(ctx, func(ctx context.Context, client controlpb.OperatorClient) error {
		stream, err := client.RunRebalance(ctx, req)
		if err != nil {
			return err
		}
		for {
			p, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			case p.Done:
				out.Planned, out.Moved, out.Cancelled, out.Stopped = p.Planned, p.Moved, p.Cancelled, p.Stopped
				continue
			}
			m := moveOf(p.Move)
			fmt.Fprintln(c.a.err, m.progress())
			i, known := at[m.Move]
			if !known {
				i = len(out.Moves)
				at[m.Move], out.Moves = i, append(out.Moves, m)
			}
			out.Moves[i] = m
		}
	})
	if err != nil {
		return err
	}
	if c.output.value == "json" {
		err = printDocument(c.a.out, out)
	} else {
		_, err = fmt.Fprintf(c.a.out, "%d of %d moves made, %d cancelled\n", out.Moved, out.Planned, out.Cancelled)
	}
	if err == nil && out.Stopped != "" {
		err = refused(fmt.Errorf("stopped: %s", out.Stopped))
	}
	return err
}
