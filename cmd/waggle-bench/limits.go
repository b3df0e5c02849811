package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/bench"
)

func (a *app) limits() *cobra.Command {
	var cfg bench.LimitsConfig
	cmd := &cobra.Command{
		Use: "limits", Short: "find what a cell bears", Args: noArgs,
		Long: "Ramps idle logged-in connections up, then, with these still held, messages between\n" +
			"pairs of one cell, each rate for some seconds, until 99 % are no longer acknowledged\n" +
			"within --p99 of when they were due, or a resource breaks. Says what broke first and how\n" +
			"much of the other resources was left, and what the cell does at twice that rate.\n" +
			"Where the generator was the limit it says so, gives no number, and exits with 1.",
		Example: "  waggle-bench limits --cell c1 --transport tcp --p99 50ms",
		RunE: func(cmd *cobra.Command, _ []string) error {
			outDir(&cfg.Common)
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			var err error
			if cfg.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program, to start it again: %w", err)
			}
			r, err := bench.LimitsOf(cmd.Context(), cfg)
			return a.done(&cfg.Common, r, err)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Cell, "cell", "", "`CELL` to load; default the first one")
	f.DurationVar(&cfg.P99, "p99", 50*time.Millisecond, "the bar for acknowledgements, from when a message was due")
	f.IntVar(&cfg.ConnectionsMax, "connections-max", 10_000, "idle connections to ramp up to")
	f.IntVar(&cfg.Levels, "procs", 5, "client processes for them, each a level of the ramp")
	f.DurationVar(&cfg.Hold, "hold", 8*time.Second, "how long idle connections are watched for their CPU")
	f.DurationVar(&cfg.Rest, "rest", time.Second, "rest before memory is looked at")
	f.IntVar(&cfg.Pairs, "pairs", 250, "pairs who write to each other in turns")
	f.IntVar(&cfg.Procs, "message-procs", 1, "client processes for their messages")
	f.IntVar(&cfg.SizeBytes, "size", 200, "`BYTES` of a message")
	f.DurationVar(&cfg.Step, "step", 5*time.Second, "time measured of each rate")
	f.DurationVar(&cfg.WarmUp, "warm-up", time.Second, "time before it, not measured")
	f.Float64Var(&cfg.RateStart, "rate-start", 1000, "first rate, in `MSGS/S`")
	f.Float64Var(&cfg.RateMax, "rate-max", 200_000, "highest rate, in `MSGS/S`")
	f.Float64Var(&cfg.Factor, "factor", 1.6, "from one rate to the next until one breaks")
	f.IntVar(&cfg.Halvings, "halvings", 3, "times the gap at the knee is halved")
	a.common(cmd, &cfg.Common)
	return cmd
}
