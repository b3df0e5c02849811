package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

type plannedJSON struct {
	Move   string `json:"move"` // empty: not started
	Range  string `json:"range"`
	From   string `json:"from"`
	To     string `json:"to"`
	Reason string `json:"reason"`
	Bytes  uint64 `json:"bytes"` // to be copied
}

// drainJSON is the answer of verbs that empty a cell or a node.
type drainJSON struct {
	Name   string        `json:"name"` // of the cell or node
	DryRun bool          `json:"dry_run"`
	Left   uint64        `json:"left"`  // ranges still there
	Moves  []plannedJSON `json:"moves"` // as things stood
}

func plannedOf(m *controlpb.PlannedMove) plannedJSON {
	return plannedJSON{m.GetMove(), decimal(m.GetRange()), m.GetFrom(), m.GetTo(), m.GetReason(), m.GetBytes()}
}

func plannedColumns() []column[plannedJSON] {
	return []column[plannedJSON]{
		{"MOVE", false, func(m plannedJSON) string { return m.Move }},
		{"RANGE", false, func(m plannedJSON) string { return m.Range }},
		{"FROM", false, func(m plannedJSON) string { return m.From }},
		{"TO", false, func(m plannedJSON) string { return m.To }},
		{"BYTES", false, func(m plannedJSON) string { return byteSize(m.Bytes) }},
		{"REASON", false, func(m plannedJSON) string { return m.Reason }},
	}
}

type drainCall func(ctx context.Context, c controlpb.OperatorClient, name string, dry bool) (*controlpb.DrainReply, error)

func (a *app) drainCell() *cobra.Command {
	cmd := &cobra.Command{
		Use: "drain C", Short: "move every range of a cell away", Args: args(1, 1),
		Long: "Moves every range of a cell to the others, by their headroom, and keeps new ones\n" +
			"out. The cluster goes on with it whether or not --wait waits.",
		Example: "  waggle cells drain c1 --dry-run\n  waggle cells drain c1 --wait --yes && waggle cells remove c1 --yes",
	}
	c := a.changingFlags(cmd, true)
	c.drains(func(ctx context.Context, client controlpb.OperatorClient, name string, dry bool) (*controlpb.DrainReply, error) {
		return client.DrainCell(ctx, &controlpb.DrainCellRequest{Cell: name, RateBytesPerS: c.rate, DryRun: dry, By: who()})
	})
	return cmd
}

func (a *app) drainNode(replace bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: "drain N", Short: "move every replica of a node to others of its cell", Args: args(1, 1),
		Long: "Moves every replica of a node to others of its cell, and keeps new ones out.",
	}
	if replace {
		cmd.Use, cmd.Short = "replace N", "replace the replicas of a node that is lost or has lost its data"
		cmd.Long = "Gives others of the cell the replicas of a node that is dead or has lost its\n" +
			"data, at once instead of after placement.lost_after. Where no other node can\n" +
			"take them the same one gets new ones."
	}
	c := a.changingFlags(cmd, true)
	c.drains(func(ctx context.Context, client controlpb.OperatorClient, name string, dry bool) (*controlpb.DrainReply, error) {
		return client.DrainNode(ctx, &controlpb.DrainNodeRequest{Node: name, RateBytesPerS: c.rate, DryRun: dry, By: who(), Replace: replace})
	})
	return cmd
}

// drains makes the command do what call asks for.
func (c *changing) drains(call drainCall) {
	ask := func(ctx context.Context, name string, dry bool) (r *controlpb.DrainReply, err error) {
		err = c.call(ctx, func(ctx context.Context, client controlpb.OperatorClient) (err error) {
			r, err = call(ctx, client, name, dry)
			return err
		})
		return r, err
	}
	c.cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		r, err := ask(cmd.Context(), name, true)
		if err != nil {
			return err
		}
		if !c.dryRun {
			if err := c.a.confirm(fmt.Sprintf("%s: would move %d ranges away. Do it?", name, r.Left), c.yes); err != nil {
				return err
			}
			if r, err = ask(cmd.Context(), name, false); err != nil {
				return err
			}
		}
		left := r.Left
		if c.wait && !c.dryRun {
			if left, err = c.waitDrained(cmd.Context(), name, call); err != nil {
				return err
			}
		}
		if c.output.value == "json" {
			return printDocument(c.a.out, drainJSON{name, c.dryRun, left, each(r.Moves, plannedOf)})
		}
		if c.dryRun {
			return printTable(c.a.out, each(r.Moves, plannedOf), c.output.value == "wide", plannedColumns())
		}
		_, err = fmt.Fprintf(c.a.out, "%s: %d ranges left\n", name, left)
		return err
	}
}

// waitDrained waits until nothing is left, and tells the progress.
func (c *changing) waitDrained(ctx context.Context, name string, call drainCall) (left uint64, err error) {
	told := ""
	err = c.until(ctx, func(ctx context.Context, client controlpb.OperatorClient) (bool, error) {
		r, err := call(ctx, client, name, true)
		if err != nil {
			return false, err
		}
		if line := fmt.Sprintf("%s: %d ranges left", name, r.Left); line != told {
			told = line
			fmt.Fprintln(c.a.err, line)
		}
		left = r.Left
		return left == 0, nil
	})
	return left, err
}

func (a *app) removeCell() *cobra.Command {
	cmd := &cobra.Command{Use: "remove C", Short: "forget a cell that is drained and whose nodes are stopped", Args: args(1, 1)}
	c := a.changingFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ask := func(dry bool) error {
			return c.call(cmd.Context(), func(ctx context.Context, client controlpb.OperatorClient) error {
				_, err := client.RemoveCell(ctx, &controlpb.RemoveCellRequest{Cell: args[0], DryRun: dry, By: who()})
				return err
			})
		}
		if err := ask(true); err != nil {
			return err
		}
		verb := "would remove"
		if !c.dryRun {
			if err := a.confirm("Would remove cell "+args[0]+". Do it?", c.yes); err != nil {
				return err
			}
			if err := ask(false); err != nil {
				return err
			}
			verb = "removed"
		}
		if c.output.value == "json" {
			return printDocument(a.out, drainJSON{Name: args[0], DryRun: c.dryRun, Moves: []plannedJSON{}})
		}
		_, err := fmt.Fprintf(a.out, "%s cell %s\n", verb, args[0])
		return err
	}
	return cmd
}
