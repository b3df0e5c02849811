package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/waggle-im/waggle/client/controlclient"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	defaultAdmin = "127.0.0.1:7480"
	// answerBytesMax bounds an operator's answer: 100,000 ranges in a list.
	answerBytesMax = 64 << 20
)

// operator is what every verb of operators takes.
type operator struct {
	a       *app
	admin   string
	output  choice
	timeout time.Duration
}

func (a *app) operatorFlags(cmd *cobra.Command, timeout time.Duration) *operator {
	o := &operator{a: a, output: choice{value: "table", allowed: []string{"table", "wide", "json"}}}
	f := cmd.Flags()
	f.StringVar(&o.admin, "admin", a.getenv("WAGGLE_ADMIN", defaultAdmin), "admin address `HOST:PORT` (WAGGLE_ADMIN)")
	f.VarP(&o.output, "output", "o", "how to print")
	f.DurationVar(&o.timeout, "timeout", timeout, "give up after this; 0: never")
	return o
}

// call connects to the admin address and asks. Errors name the address and the
// way out.
func (o *operator) call(ctx context.Context, ask func(context.Context, controlpb.OperatorClient) error) error {
	if o.timeout < 0 {
		return usagef("--timeout %s: not below 0", o.timeout)
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	conn, err := grpc.NewClient("passthrough:///"+o.admin, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerBytesMax)))
	if err != nil {
		return usagef("--admin %s: %w", o.admin, err)
	}
	defer conn.Close()
	return o.explain(ctx, ask(ctx, controlpb.NewOperatorClient(conn)))
}

func (o *operator) explain(ctx context.Context, err error) error {
	st, isStatus := status.FromError(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded),
		st.Code() == codes.DeadlineExceeded && len(st.Details()) == 0: // the server's clock was the faster
		return timedOut(fmt.Errorf("the admin address %s gave no answer within %s: ask `waggle status`, or allow more with --timeout", o.admin, o.timeout))
	case ctx.Err() != nil:
		return errors.New("interrupted: what was asked for may have been done")
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the admin address %s ended the answer early: ask `waggle status`, then again", o.admin)
	case !isStatus:
		return err
	case len(st.Details()) > 0:
		return controlclient.FromStatus(err)
	case st.Code() == codes.Unavailable:
		return fmt.Errorf("the admin address %s does not answer (%s): is the cluster running? `make run` starts one, --admin names another", o.admin, dialMessage(st.Message()))
	case st.Code() == codes.Unimplemented:
		return fmt.Errorf("the node at %s serves no operator verbs: name a control plane's admin address with --admin", o.admin)
	}
	return controlclient.FromStatus(err)
}

// dialMessage takes gRPC's wrapping off a message, where it is the usual one.
func dialMessage(s string) string {
	if inner, ok := strings.CutPrefix(s, `connection error: desc = "transport: Error while dialing: `); ok {
		return strings.TrimSuffix(inner, `"`)
	}
	return s
}

// show prints rows as a table or as one JSON list.
func show[T any](o *operator, rows []T, columns []column[T]) error {
	if o.output.value == "json" {
		return printDocument(o.a.out, list(rows))
	}
	return printTable(o.a.out, rows, o.output.value == "wide", columns)
}

// showOne prints one row as a table or as one JSON object.
func showOne[T any](o *operator, row T, columns []column[T]) error {
	if o.output.value == "json" {
		return printDocument(o.a.out, row)
	}
	return printTable(o.a.out, []T{row}, true, columns)
}

// pick is the row whose first column is name.
func pick[T any](rows []T, name, what string, columns []column[T]) (T, error) {
	for _, row := range rows {
		if columns[0].cell(row) == name {
			return row, nil
		}
	}
	var none T
	return none, fmt.Errorf("there is no %s %s: `waggle %ss ls` lists them", what, name, what)
}

// defaultTimeout bounds a question to the cluster. One that waits for nodes to
// start takes longer.
const (
	defaultTimeout = 10 * time.Second
	startTimeout   = time.Minute
)

// question gives the answer to a question of a list.
type question[T any] func(context.Context, controlpb.OperatorClient) ([]T, error)

// lister makes `ls` for a list, and `show NAME` for one of its rows.
func lister[T any](a *app, what string, columns []column[T], ask question[T]) (ls, one *cobra.Command) {
	get := func(cmd *cobra.Command, o *operator) (rows []T, err error) {
		err = o.call(cmd.Context(), func(ctx context.Context, c controlpb.OperatorClient) error {
			rows, err = ask(ctx, c)
			return err
		})
		return rows, err
	}
	ls = &cobra.Command{Use: "ls", Short: "list the " + what + "s", Args: args(0, 0)}
	lsFlags := a.operatorFlags(ls, defaultTimeout)
	ls.RunE = func(cmd *cobra.Command, _ []string) error {
		rows, err := get(cmd, lsFlags)
		if err != nil {
			return err
		}
		return show(lsFlags, rows, columns)
	}
	one = &cobra.Command{Use: "show " + map[string]string{"cell": "C", "node": "N", "range": "R", "move": "M"}[what], Short: "show one " + what, Args: args(1, 1)}
	oneFlags := a.operatorFlags(one, defaultTimeout)
	one.RunE = func(cmd *cobra.Command, args []string) error {
		rows, err := get(cmd, oneFlags)
		if err != nil {
			return err
		}
		row, err := pick(rows, args[0], what, columns)
		if err != nil {
			return err
		}
		return showOne(oneFlags, row, columns)
	}
	return ls, one
}

func (a *app) cells() *cobra.Command {
	ls, one := lister(a, "cell", cellColumns(), func(ctx context.Context, c controlpb.OperatorClient) ([]cellJSON, error) {
		r, err := c.ListCells(ctx, &controlpb.ListCellsRequest{})
		return each(r.GetCells(), cellOf), err
	})
	add := &cobra.Command{
		Use: "add C", Short: "register a cell", Args: args(1, 1),
		Long: "Registers a cell, as in c3. New users land there once its nodes are alive; on a\n" +
			"cluster of `waggle dev` they are started too. Repeating it changes nothing.",
	}
	o := a.operatorFlags(add, startTimeout)
	add.RunE = func(cmd *cobra.Command, args []string) error {
		var cell cellJSON
		err := o.call(cmd.Context(), func(ctx context.Context, c controlpb.OperatorClient) error {
			r, err := c.AddCell(ctx, &controlpb.AddCellRequest{Cell: args[0], By: who()})
			cell = cellOf(r.GetCell())
			return err
		})
		if err != nil {
			return err
		}
		return showOne(o, cell, cellColumns())
	}
	return chooser(&cobra.Command{Use: "cells", Short: "cells: list, show, add, drain, remove"}, ls, one, add, a.drainCell(), a.removeCell())
}

func (a *app) nodes() *cobra.Command {
	ls, one := lister(a, "node", nodeColumns(), func(ctx context.Context, c controlpb.OperatorClient) ([]nodeJSON, error) {
		r, err := c.ListNodes(ctx, &controlpb.ListNodesRequest{})
		return each(r.GetNodes(), nodeOf), err
	})
	return chooser(&cobra.Command{Use: "nodes", Short: "nodes: list, show, drain, replace"}, ls, one, a.drainNode(false), a.drainNode(true))
}

func (a *app) ranges() *cobra.Command {
	ls, one := lister(a, "range", rangeColumns(), func(ctx context.Context, c controlpb.OperatorClient) ([]rangeJSON, error) {
		r, err := c.ListRanges(ctx, &controlpb.ListRangesRequest{})
		return each(r.GetRanges(), rangeOf), err
	})
	return chooser(&cobra.Command{Use: "ranges", Short: "ranges of ids: list, show, verify, move, rebalance, recover, reconcile"},
		ls, one, a.verifyRange(), a.moveRange(), a.rebalance(), a.recoverRange(), a.reconcile())
}

func (a *app) edges() *cobra.Command {
	ls, _ := lister(a, "edge", edgeColumns(), func(ctx context.Context, c controlpb.OperatorClient) ([]edgeJSON, error) {
		r, err := c.ListEdges(ctx, &controlpb.ListEdgesRequest{})
		return each(r.GetEdges(), edgeOf), err
	})
	return chooser(&cobra.Command{Use: "edges", Short: "edges: list, drain"}, ls, a.drainEdge())
}

func (a *app) status() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "the whole cluster on one screen", Args: args(0, 0)}
	o := a.operatorFlags(cmd, defaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var s statusJSON
		err := o.call(cmd.Context(), func(ctx context.Context, c controlpb.OperatorClient) error {
			r, err := c.Status(ctx, &controlpb.StatusRequest{})
			s = statusFrom(r)
			return err
		})
		if err != nil {
			return err
		}
		if o.output.value == "json" {
			return printDocument(a.out, s)
		}
		return s.print(a.out, o.output.value == "wide")
	}
	return cmd
}

func (s statusJSON) print(w io.Writer, wide bool) error {
	mode := s.Mode
	if mode == "embedded" {
		mode = "embedded: all on one machine, for trying and developing"
	}
	health := "good"
	if len(s.Problems) > 0 {
		health = fmt.Sprintf("%d problems, see below", len(s.Problems))
	}
	err := printPairs(w, [2]string{"cluster", s.Cluster}, [2]string{"mode", mode}, [2]string{"version", s.Version},
		[2]string{"ranges", fmt.Sprintf("%d, %d without leader", s.Ranges, s.RangesWithoutLeader)}, [2]string{"health", health})
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printTable(w, s.Cells, wide, cellColumns()); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printTable(w, s.Nodes, wide, nodeColumns()); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printTable(w, s.Edges, wide, edgeColumns()); err != nil {
		return err
	}
	if len(s.Moves) > 0 {
		fmt.Fprintln(w)
		if err := printTable(w, s.Moves, wide, moveColumns()); err != nil {
			return err
		}
	}
	if s.Canary != nil {
		fmt.Fprintln(w, "\ncanary: "+s.Canary.text())
	}
	if len(s.Problems) > 0 {
		fmt.Fprintln(w, "\nPROBLEMS")
	}
	for _, p := range s.Problems {
		if _, err := fmt.Fprintln(w, p); err != nil {
			return err
		}
	}
	return nil
}
