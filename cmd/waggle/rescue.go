package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// rescueTimeout bounds verbs that read or open whole replicas.
const rescueTimeout = time.Minute

// verifyJSON is the answer of `ranges verify`.
type verifyJSON struct {
	Range    string       `json:"range"`
	Index    uint64       `json:"index"` // of the last entry that the digests cover
	Equal    bool         `json:"equal"`
	Replicas []digestJSON `json:"replicas"`
}

type digestJSON struct {
	Node    string `json:"node"`
	Replica string `json:"replica"`
	Digest  string `json:"digest"` // 16 hex digits; empty: see error
	Keys    uint64 `json:"keys"`
	Bytes   uint64 `json:"bytes"`
	Error   string `json:"error"`
}

// verifyRow is one line of the table.
type verifyRow struct {
	verifyJSON
	digestJSON
}

func verifyOf(r *controlpb.VerifyRangeReply) verifyJSON {
	return verifyJSON{decimal(r.GetRange()), r.GetIndex(), r.GetEqual(), each(r.GetReplicas(), func(d *controlpb.ReplicaDigest) digestJSON {
		out := digestJSON{Node: d.GetNode(), Replica: decimal(d.GetReplica()), Keys: d.GetKeys(), Bytes: d.GetBytes(), Error: d.GetError()}
		if out.Error == "" {
			out.Digest = fmt.Sprintf("%016x", d.GetDigest())
		}
		return out
	})}
}

func verifyColumns() []column[verifyRow] {
	return []column[verifyRow]{
		{"RANGE", false, func(r verifyRow) string { return r.Range }},
		{"INDEX", false, func(r verifyRow) string { return decimal(r.Index) }},
		{"NODE", false, func(r verifyRow) string { return r.Node }},
		{"REPLICA", false, func(r verifyRow) string { return r.Replica }},
		{"DIGEST", false, func(r verifyRow) string { return r.Digest }},
		{"KEYS", false, func(r verifyRow) string { return decimal(r.Keys) }},
		{"BYTES", false, func(r verifyRow) string { return byteSize(r.Bytes) }},
		{"EQUAL", false, func(r verifyRow) string { return strconv.FormatBool(r.Equal) }},
		{"ERROR", false, func(r verifyRow) string { return r.Error }},
	}
}

func (a *app) verifyRange() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "verify R | --all", Short: "compare all replicas of a range", Args: args(0, 1),
		Long: "Digests every replica of a range as of one entry of its log. Fails unless all\n" +
			"replicas answer with the same digest. With -o json --all prints one object a line.",
		Example: "  waggle ranges verify 3\n  waggle ranges verify --all -o json",
	}
	o := a.operatorFlags(cmd, rescueTimeout)
	cmd.Flags().BoolVar(&all, "all", false, "verify every range, one after the other; --timeout counts for each")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ranges, err := o.verified(cmd.Context(), args, all)
		if err != nil {
			return err
		}
		var rows []verifyRow
		var bad []string
		for _, id := range ranges {
			var v verifyJSON
			err := o.call(cmd.Context(), func(ctx context.Context, c controlpb.OperatorClient) error {
				r, err := c.VerifyRange(ctx, &controlpb.VerifyRangeRequest{Range: id})
				v = verifyOf(r)
				return err
			})
			if err != nil && !all {
				return err
			}
			if err != nil {
				v = verifyJSON{Range: decimal(id), Replicas: []digestJSON{}}
				fmt.Fprintf(a.err, "range %d: %v\n", id, err)
			}
			if !v.Equal {
				bad = append(bad, v.Range)
			}
			for _, d := range v.Replicas {
				rows = append(rows, verifyRow{v, d})
			}
			if o.output.value == "json" {
				print := printDocument
				if all {
					print = printLine
				}
				if err := print(a.out, v); err != nil {
					return err
				}
			}
		}
		if o.output.value != "json" {
			if err := printTable(a.out, rows, o.output.value == "wide", verifyColumns()); err != nil {
				return err
			}
		}
		if len(bad) > 0 {
			return fmt.Errorf("the replicas of range %s differ, or could not all be asked", strings.Join(bad, ", "))
		}
		return nil
	}
	return cmd
}

// verified are the ranges asked for.
func (o *operator) verified(ctx context.Context, args []string, all bool) (ranges []uint64, err error) {
	if all == (len(args) == 1) {
		return nil, usagef("name a range, or say --all")
	}
	if !all {
		id, err := parseRange(args[0])
		return []uint64{id}, err
	}
	err = o.call(ctx, func(ctx context.Context, c controlpb.OperatorClient) error {
		r, err := c.ListRanges(ctx, &controlpb.ListRangesRequest{})
		for _, st := range r.GetRanges() {
			ranges = append(ranges, st.Range)
		}
		return err
	})
	return ranges, err
}

// recoverJSON is the answer of `ranges recover`.
type recoverJSON struct {
	Range     string       `json:"range"`
	Cell      string       `json:"cell"`
	DryRun    bool         `json:"dry_run"`
	Epoch     uint64       `json:"epoch"` // afterwards
	Node      string       `json:"node"`  // whose replica goes on
	LastTerm  uint64       `json:"last_term"`
	LastIndex uint64       `json:"last_index"`
	MayMiss   bool         `json:"may_miss"` // acknowledged entries
	Why       string       `json:"why"`
	Answered  []memberJSON `json:"answered"`
	Silent    []memberJSON `json:"silent"`
}

type memberJSON struct {
	Replica string `json:"replica"`
	Node    string `json:"node"`
}

func recoverOf(r *controlpb.RecoverRangeReply, dry bool) recoverJSON {
	member := func(m *controlpb.RangeReplica) memberJSON { return memberJSON{decimal(m.GetId()), m.GetNode()} }
	return recoverJSON{decimal(r.GetRange()), r.GetCell(), dry, r.GetEpoch(), r.GetNode(), r.GetLastTerm(), r.GetLastIndex(),
		r.GetMayMiss(), r.GetWhy(), each(r.GetAnswered(), member), each(r.GetSilent(), member)}
}

func (r recoverJSON) text() string {
	missing := "Nothing that was acknowledged is missing"
	if r.MayMiss {
		missing = "Acknowledged entries MAY BE MISSING: " + r.Why
	}
	silent := " none"
	if len(r.Silent) > 0 {
		silent = ""
		for _, m := range r.Silent {
			silent += " " + m.Node
		}
	}
	return fmt.Sprintf("range %s goes on in cell %s with the replica of node %s (term %d, entry %d), at epoch %d. Replicas given up:%s. %s",
		r.Range, r.Cell, r.Node, r.LastTerm, r.LastIndex, r.Epoch, silent, missing)
}

func (a *app) recoverRange() *cobra.Command {
	req := &controlpb.RecoverRangeRequest{By: who()}
	cmd := &cobra.Command{
		Use: "recover R --cell C", Short: "go on with one replica of a range whose majority is lost for ever", Args: args(1, 1),
		Long: "Leaves a range to one replica in a cell: of those that answer, the one whose log\n" +
			"goes farthest. Says whether acknowledged entries may be missing then. Further\n" +
			"replicas are made by themselves. Refused while the range has a leader.",
		Example: "  waggle ranges recover 3 --cell c1 --dry-run\n  waggle ranges recover 3 --cell c1 --yes",
	}
	c := a.changingFlags(cmd, false)
	c.timeout = rescueTimeout
	cmd.Flags().Lookup("timeout").DefValue = rescueTimeout.String()
	cmd.Flags().StringVar(&req.Cell, "cell", "", "the `CELL` whose replica goes on")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if req.Range, err = parseRange(args[0]); err != nil {
			return err
		}
		if req.Cell == "" {
			return usagef("--cell is missing: whose replica is to go on?")
		}
		ask := func(dry bool) (out recoverJSON, err error) {
			req.DryRun = dry
			err = c.call(cmd.Context(), func(ctx context.Context, client controlpb.OperatorClient) error {
				r, err := client.RecoverRange(ctx, req)
				out = recoverOf(r, dry)
				return err
			})
			return out, err
		}
		r, err := ask(true)
		if err != nil {
			return err
		}
		if !c.dryRun {
			if err := a.confirm("Would recover: "+r.text()+". Do it?", c.yes); err != nil {
				return err
			}
			if r, err = ask(false); err != nil {
				return err
			}
		}
		if c.output.value == "json" {
			return printDocument(a.out, r)
		}
		_, err = fmt.Fprintln(a.out, r.text())
		return err
	}
	return cmd
}

// reconcileJSON is the answer of `ranges reconcile`.
type reconcileJSON struct {
	DryRun    bool         `json:"dry_run"`
	NextRange string       `json:"next_range"` // the next range id to be given
	Changes   []changeJSON `json:"changes"`
}

type changeJSON struct {
	Range    string   `json:"range"`
	OldCell  string   `json:"old_cell"` // empty: the row was missing
	OldEpoch uint64   `json:"old_epoch"`
	Cell     string   `json:"cell"`
	Epoch    uint64   `json:"epoch"`
	Voters   []string `json:"voters"`
}

func changeOf(c *controlpb.RouteChange) changeJSON {
	return changeJSON{decimal(c.GetRange()), c.GetOldCell(), c.GetOldEpoch(), c.GetCell(), c.GetEpoch(), list(c.GetVoters())}
}

func changeColumns() []column[changeJSON] {
	return []column[changeJSON]{
		{"RANGE", false, func(c changeJSON) string { return c.Range }},
		{"WAS IN", false, func(c changeJSON) string { return c.OldCell }},
		{"AT EPOCH", false, func(c changeJSON) string { return decimal(c.OldEpoch) }},
		{"IS IN", false, func(c changeJSON) string { return c.Cell }},
		{"AT EPOCH", false, func(c changeJSON) string { return decimal(c.Epoch) }},
		{"VOTERS", false, func(c changeJSON) string { return strings.Join(c.Voters, " ") }},
	}
}

func (a *app) reconcile() *cobra.Command {
	req := &controlpb.ReconcileRequest{By: who()}
	cmd := &cobra.Command{
		Use: "reconcile", Short: "rebuild the route table from what the nodes hold, after etcd was restored", Args: args(0, 0),
		Long: "Rebuilds the route table and the counter of range ids from the nodes' descriptors,\n" +
			"of which the highest epoch is right, and lets placement go on. Refused while a\n" +
			"storage node does not answer, unless it is named with --without.",
		Example: "  waggle ranges reconcile --dry-run\n  waggle ranges reconcile --without c1-n2 --yes",
	}
	c := a.changingFlags(cmd, false)
	cmd.Flags().StringSliceVar(&req.Without, "without", nil, "do not wait for this `NODE`: it is lost for ever")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ask := func(dry bool) (out reconcileJSON, err error) {
			req.DryRun = dry
			err = c.call(cmd.Context(), func(ctx context.Context, client controlpb.OperatorClient) error {
				r, err := client.Reconcile(ctx, req)
				out = reconcileJSON{dry, decimal(r.GetNextRange()), each(r.GetChanges(), changeOf)}
				return err
			})
			return out, err
		}
		r, err := ask(true)
		if err != nil {
			return err
		}
		if !c.dryRun {
			if err := a.confirm(fmt.Sprintf("Would change %d rows of the route table, and give range ids from %s on. Do it?", len(r.Changes), r.NextRange), c.yes); err != nil {
				return err
			}
			if r, err = ask(false); err != nil {
				return err
			}
		}
		if c.output.value == "json" {
			return printDocument(a.out, r)
		}
		err = printTable(a.out, r.Changes, c.output.value == "wide", changeColumns())
		_, more := fmt.Fprintf(a.out, "%d rows, range ids from %s on\n", len(r.Changes), r.NextRange)
		return errors.Join(err, more)
	}
	return cmd
}
