package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/bench"
)

// What the program exits with.
const (
	statusFailed = 1 // also: the servers broke a promise
	statusUsage  = 2
)

// usageError is wrong usage.
type usageError struct{ error }

func main() {
	// The generator shares the machine with the servers: memory is cheaper
	// than its collector's CPU time.
	debug.SetGCPercent(400)
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, in io.Reader, out, progress io.Writer) int {
	a := &app{in: in, out: out, progress: progress, command: strings.Join(append([]string{"waggle-bench"}, args...), " ")}
	root := a.root()
	root.SetArgs(append([]string{}, args...))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(progress, "waggle-bench: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if _, ok := errors.AsType[usageError](err); ok {
		return statusUsage
	}
	return statusFailed
}

type app struct {
	in            io.Reader
	out, progress io.Writer
	command       string
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "waggle-bench",
		Short: "load a Waggle cluster and report what it bore",
		Long: "Loads a running cluster and leaves a folder with result.json, report.md, plots\n" +
			"and, for run, history.jsonl. Lift the limits per user and per address first, in\n" +
			"the file for `waggle dev --config`:\n\n" +
			"  cell: {messages_per_second: -1}\n  edge: {exempt_loopback: true}\n\n" +
			"Exit status: 0 measured and every promise kept, 1 not, 2 wrong usage.",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetOut(a.out)
	root.SetErr(a.progress)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see `%s --help`)", err, cmd.CommandPath())}
	})
	root.AddCommand(a.run(), a.idle(), a.limits(), a.move(), a.storm(), a.scale(), a.startup(), a.ceiling(), a.verify(), a.compare(), a.hold(), a.member(), a.ceilingProcess())
	return root
}

// common adds the flags every measurement has.
func (a *app) common(cmd *cobra.Command, c *bench.Common) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar((*string)(&c.Transport), "transport", "tcp", "`HOW` to connect: tcp (with TLS), plain, quic")
	f.StringVar(&c.Server, "server", getenv("WAGGLE_SERVER", "127.0.0.1:7443"), "`HOST:PORT` of an edge (WAGGLE_SERVER); with --transport plain its plaintext address")
	f.StringVar(&c.Admin, "admin", getenv("WAGGLE_ADMIN", "127.0.0.1:7480"), "admin address `HOST:PORT` (WAGGLE_ADMIN)")
	f.StringVar(&c.CA, "ca", getenv("WAGGLE_CA", "waggle-data/ca.pem"), "`FILE` with the authority of the edge's certificate (WAGGLE_CA)")
	f.StringVar(&c.Out, "out", "", "`DIR` for the results; default ./waggle-bench-TIME")
	c.Command, c.Progress = a.command, a.progress
}

func getenv(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

func outDir(c *bench.Common) {
	if c.Out == "" {
		c.Out = "waggle-bench-" + time.Now().UTC().Format("20060102-150405")
	}
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%q is too much", args[0])}
	}
	return nil
}

func (a *app) run() *cobra.Command {
	var cfg bench.RunConfig
	cmd := &cobra.Command{
		Use: "run", Short: "send messages between pairs", Args: noArgs,
		Example: "  waggle-bench run --pairs 500 --window 500\n  waggle-bench run --pairs 500 --rate 10000 --duration 30s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			outDir(&cfg.Common)
			if cfg.Users == 0 {
				cfg.Users = 2 * cfg.Pairs
			}
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			var err error
			if cfg.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program, to start it again: %w", err)
			}
			r, err := bench.Run(cmd.Context(), cfg)
			return a.done(&cfg.Common, r, err)
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Users, "users", 0, "people, each with a connection; default two for each pair")
	f.IntVar(&cfg.Pairs, "pairs", 100, "pairs who write to each other in turns")
	f.Float64Var(&cfg.Rate, "rate", 0, "open loop: `MSGS/S` in all; a slow server does not slow it")
	f.IntVar(&cfg.Window, "window", 0, "closed loop: messages outstanding in all")
	f.IntVar(&cfg.SizeBytes, "size", 200, "`BYTES` of a message")
	f.DurationVar(&cfg.Duration, "duration", 30*time.Second, "time measured")
	f.DurationVar(&cfg.WarmUp, "warm-up", 3*time.Second, "time before it, not measured")
	f.IntVar(&cfg.Procs, "procs", 1, "client processes the pairs are split over, each with its share of the load")
	f.StringVar(&cfg.Placement, "placement", bench.SameCell, "`WHERE` the two of a pair live: same-cell, cross-cell, mixed")
	a.common(cmd, &cfg.Common)
	return cmd
}

func (a *app) idle() *cobra.Command {
	var cfg bench.IdleConfig
	cmd := &cobra.Command{
		Use: "idle", Short: "hold silent connections", Args: noArgs,
		Example: "  waggle-bench idle --connections 10000 --transport quic",
		RunE: func(cmd *cobra.Command, _ []string) error {
			outDir(&cfg.Common)
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			var err error
			if cfg.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program, to start it again: %w", err)
			}
			r, err := bench.Idle(cmd.Context(), cfg)
			return a.done(&cfg.Common, r, err)
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Connections, "connections", 1000, "connections, each with an account of its own")
	f.DurationVar(&cfg.Hold, "hold", time.Minute, "how long all of them are held")
	f.IntVar(&cfg.Procs, "procs", 1, "client processes")
	a.common(cmd, &cfg.Common)
	return cmd
}

func (a *app) move() *cobra.Command {
	var cfg bench.MoveConfig
	cmd := &cobra.Command{
		Use: "move", Short: "move a range while people write, and measure the pause", Args: noArgs,
		Long: "Moves a range to another cell under an open-loop load and checks that nothing was\n" +
			"lost, doubled or reordered. The pause of a move is the longest that a sender of the\n" +
			"range waited for an acknowledgement while the range changed owner.\n" +
			"With --times the range goes there, back, there, and so on.",
		Example: "  waggle-bench move --range auto --to c2 --rate 1000\n  waggle-bench move --range auto --to c2 --rate 1000 --times 20",
		RunE: func(cmd *cobra.Command, _ []string) error {
			outDir(&cfg.Common)
			if cfg.Users == 0 {
				cfg.Users = 2 * cfg.Pairs
			}
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			r, err := bench.Move(cmd.Context(), cfg)
			return a.done(&cfg.Common, r, err)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Range, "range", "auto", "`RANGE` to move; auto: the one where most of the run's users landed, of those outside --to")
	f.StringVar(&cfg.To, "to", "", "`CELL` to move it to")
	f.IntVar(&cfg.Times, "times", 1, "moves: there, back, there …")
	f.DurationVar(&cfg.Rest, "rest", time.Second, "time between two moves")
	f.IntVar(&cfg.Users, "users", 0, "people, each with a connection; default two for each pair")
	f.IntVar(&cfg.Pairs, "pairs", 200, "pairs who write to each other in turns")
	f.Float64Var(&cfg.Rate, "rate", 1000, "open loop: `MSGS/S` in all")
	f.IntVar(&cfg.SizeBytes, "size", 200, "`BYTES` of a message")
	f.DurationVar(&cfg.Duration, "max-duration", time.Hour, "time after which the load ends at the latest")
	f.DurationVar(&cfg.WarmUp, "warm-up", 3*time.Second, "time before the first move")
	f.StringVar(&cfg.Placement, "placement", bench.Mixed, "`WHERE` the two of a pair live: same-cell, cross-cell, mixed")
	a.common(cmd, &cfg.Common)
	return cmd
}

// done says where the results are and whether they are good.
func (a *app) done(c *bench.Common, r *bench.Result, err error) error {
	if err != nil {
		return err
	}
	report, err := os.ReadFile(filepath.Join(c.Out, "report.md"))
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s\nin %s\n", report, c.Out)
	return r.Faults()
}

func (a *app) verify() *cobra.Command {
	return &cobra.Command{
		Use: "verify DIR", Short: "judge the recorded history of a run again", Args: exactly(1, "the folder of a run"),
		RunE: func(_ *cobra.Command, args []string) error { return bench.Verify(args[0], a.out) },
	}
}

func (a *app) compare() *cobra.Command {
	return &cobra.Command{
		Use: "compare A.json B.json", Short: "put two results, or two sets of repeated ones, side by side", Args: exactly(2, "two results"),
		Long: "Each side is a result.json, its folder, or several apart by commas; each may be a\n" +
			"pattern in quotes. Of several the medians are compared, and the least and the most shown.",
		Example: "  waggle-bench compare before/result.json after/result.json\n" +
			"  waggle-bench compare a1,a2,a3 b1,b2,b3\n  waggle-bench compare 'before/*/limits-tcp' 'after/*/limits-tcp'",
		RunE: func(_ *cobra.Command, args []string) error {
			first, err := bench.ReadResults(args[0])
			if err != nil {
				return err
			}
			second, err := bench.ReadResults(args[1])
			if err != nil {
				return err
			}
			return bench.Compare(first, second, a.out)
		},
	}
}

// hold is a client process of idle.
func (a *app) hold() *cobra.Command {
	return &cobra.Command{
		Use: "hold", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return bench.Hold(cmd.Context(), a.in, a.out) },
	}
}

// member is a client process of run and limits.
func (a *app) member() *cobra.Command {
	return &cobra.Command{
		Use: "member", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return bench.Member(cmd.Context(), a.in, a.out) },
	}
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s needs %s: %s", cmd.CommandPath(), what, cmd.UseLine())}
		}
		return nil
	}
}
