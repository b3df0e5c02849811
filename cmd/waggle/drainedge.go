package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// edgeDrainJSON is the answer of `edges drain`.
type edgeDrainJSON struct {
	Edge         string   `json:"edge"`
	DryRun       bool     `json:"dry_run"`
	State        string   `json:"state"`
	Sessions     uint64   `json:"sessions"`     // still there
	Alternatives []string `json:"alternatives"` // edges that take them
}

func edgeDrainOf(r *controlpb.DrainEdgeReply, dry bool) edgeDrainJSON {
	e := r.GetEdge()
	return edgeDrainJSON{e.GetEdge(), dry, e.GetState(), e.GetSessions(), list(r.GetAlternatives())}
}

func (a *app) drainEdge() *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use: "drain E", Short: "send the sessions of an edge to the others", Args: args(1, 1),
		Long: "Sends the sessions of an edge to the others, some at a time (edge.drain_rate), and\n" +
			"keeps new ones out. Each connects elsewhere first: nobody is disconnected. After\n" +
			"that the edge can be stopped. It stays drained, also when it is started again,\n" +
			"until --undo.",
		Example: "  waggle edges drain e1 --wait --yes\n  waggle edges drain e1 --undo --yes",
	}
	c := a.changingFlags(cmd, false)
	c.see = "waggle edges ls"
	cmd.Flags().BoolVar(&c.wait, "wait", false, "wait until it is done; --timeout counts then only if it is given")
	cmd.Flags().BoolVar(&undo, "undo", false, "let the edge take sessions again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ask := func(ctx context.Context, client controlpb.OperatorClient, dry bool) (*controlpb.DrainEdgeReply, error) {
			return client.DrainEdge(ctx, &controlpb.DrainEdgeRequest{Edge: args[0], Undo: undo, DryRun: dry, By: who()})
		}
		var r *controlpb.DrainEdgeReply
		once := func(dry bool) error {
			return c.call(cmd.Context(), func(ctx context.Context, client controlpb.OperatorClient) (err error) {
				r, err = ask(ctx, client, dry)
				return err
			})
		}
		if err := once(true); err != nil {
			return err
		}
		if !c.dryRun {
			if err := a.confirm(edgeQuestion(r, undo), c.yes); err != nil {
				return err
			}
			if err := once(false); err != nil {
				return err
			}
		}
		if c.wait && !c.dryRun {
			told := ""
			err := c.until(cmd.Context(), func(ctx context.Context, client controlpb.OperatorClient) (_ bool, err error) {
				if r, err = ask(ctx, client, true); err != nil {
					return false, err
				}
				if line := edgeLine(r); line != told {
					told = line
					fmt.Fprintln(a.err, line)
				}
				return r.Done, nil
			})
			if err != nil {
				return err
			}
		}
		if c.output.value == "json" {
			return printDocument(a.out, edgeDrainOf(r, c.dryRun))
		}
		_, err := fmt.Fprintln(a.out, edgeLine(r))
		return err
	}
	return cmd
}

func edgeQuestion(r *controlpb.DrainEdgeReply, undo bool) string {
	if undo {
		return fmt.Sprintf("%s: would take sessions again. Do it?", r.GetEdge().GetEdge())
	}
	return fmt.Sprintf("%s: would send %d sessions to %s. Do it?", r.GetEdge().GetEdge(), r.GetEdge().GetSessions(), strings.Join(r.Alternatives, ", "))
}

func edgeLine(r *controlpb.DrainEdgeReply) string {
	return fmt.Sprintf("%s: %s, %d sessions left", r.GetEdge().GetEdge(), r.GetEdge().GetState(), r.GetEdge().GetSessions())
}
