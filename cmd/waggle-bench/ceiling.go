package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/bench"
	"github.com/waggle-im/waggle/bench/ceiling"
)

// ceilingWindow is the closed loop where no loop is asked for.
const ceilingWindow = 500

func (a *app) ceiling() *cobra.Command {
	var cfg bench.CeilingConfig
	load := &cfg.Load
	cmd := &cobra.Command{
		Use: "ceiling", Short: "the least a durable chat server can do, to hold the rest against", Args: noArgs,
		Long: "Starts a server of its own, and with --copies 3 two followers, and loads it as run loads\n" +
			"Waggle. It takes messages over TLS, writes them in synced batches, acknowledges and\n" +
			"pushes them; it knows nothing of accounts, order, resumption, routes or marks. Needs no\n" +
			"cluster.",
		Example: "  waggle-bench ceiling\n  waggle-bench ceiling --copies 3 --rate 10000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			outDir(&cfg.Common)
			if load.Window == 0 && load.Rate == 0 {
				load.Window = min(ceilingWindow, 2*load.Pairs)
			}
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			var err error
			if cfg.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program, to start it again: %w", err)
			}
			r, err := bench.CeilingOf(cmd.Context(), cfg)
			return a.done(&cfg.Common, r, err)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&load.Copies, "copies", 1, "of every message: 1, or 3 in processes of their own")
	f.IntVar(&load.Pairs, "pairs", 500, "pairs who write to each other in turns")
	f.IntVar(&load.Window, "window", 0, "closed loop: messages outstanding in all, at most two for each pair; default 500 unless there is a --rate")
	f.Float64Var(&load.Rate, "rate", 0, "open loop: `MSGS/S` in all; a slow server does not slow it")
	f.IntVar(&load.SizeBytes, "size", 200, "`BYTES` of a message")
	f.DurationVar(&load.Duration, "duration", 8*time.Second, "time measured")
	f.DurationVar(&load.WarmUp, "warm-up", 3*time.Second, "time before it, not measured")
	f.StringVar(&load.Dir, "dir", os.TempDir(), "`DIR` on the disk that is to be measured, for the stores")
	f.StringVar(&cfg.Out, "out", "", "`DIR` for the results; default ./waggle-bench-TIME")
	cfg.Command, cfg.Progress = a.command, a.progress
	return cmd
}

// ceilingProcess is a server process of ceiling.
func (a *app) ceilingProcess() *cobra.Command {
	return &cobra.Command{
		Use: "ceiling-process", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return ceiling.Process(cmd.Context(), a.in, a.out) },
	}
}
