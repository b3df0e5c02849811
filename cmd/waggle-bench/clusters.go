package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/bench"
)

// waggle is the program beside this one.
func waggle() string {
	if own, err := os.Executable(); err == nil {
		return filepath.Join(filepath.Dir(own), "waggle")
	}
	return "waggle"
}

// own adds the flags of measurements that start clusters of their own.
func (a *app) own(cmd *cobra.Command, c *bench.Common, program *string) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(program, "waggle", waggle(), "`PATH` of the program whose clusters are started")
	f.StringVar(&c.Out, "out", "", "`DIR` for the results; default ./waggle-bench-TIME")
	c.Command, c.Progress = a.command, a.progress
}

func (a *app) scale() *cobra.Command {
	var cfg bench.ScaleConfig
	cmd := &cobra.Command{
		Use: "scale", Short: "the same rate over 1, 2, 4 and 8 cells", Args: noArgs,
		Long: "Starts a private cluster of each size, one after the other, in temporary folders, and\n" +
			"offers the same messages to each: CPU per message, memory per cell, latency. Where the\n" +
			"generator was the limit it says so, gives no number, and exits with 1.",
		Example: "  waggle-bench scale --cells 1,2,4,8 --rate 1000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			outDir(&cfg.Common)
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			var err error
			if cfg.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program, to start it again: %w", err)
			}
			r, err := bench.ScaleOf(cmd.Context(), cfg)
			return a.done(&cfg.Common, r, err)
		},
	}
	f := cmd.Flags()
	f.IntSliceVar(&cfg.Cells, "cells", []int{1, 2, 4, 8}, "`NUMBERS` of cells")
	f.Float64Var(&cfg.Rate, "rate", 1000, "open loop: `MSGS/S` in all")
	f.IntVar(&cfg.Pairs, "pairs", 200, "pairs who write to each other in turns, spread evenly over the cells")
	f.DurationVar(&cfg.Duration, "duration", 10*time.Second, "time measured of each")
	f.DurationVar(&cfg.WarmUp, "warm-up", 3*time.Second, "time before it, not measured")
	f.IntVar(&cfg.Repeat, "repeat", 1, "runs of each, for medians and spread")
	f.IntVar(&cfg.Procs, "procs", 1, "client processes")
	f.IntVar(&cfg.SizeBytes, "size", 200, "`BYTES` of a message")
	f.StringVar(&cfg.Placement, "placement", bench.Mixed, "`WHERE` the two of a pair live, from two cells on: same-cell, cross-cell, mixed")
	f.StringVar((*string)(&cfg.Transport), "transport", "tcp", "`HOW` to connect: tcp (with TLS), quic")
	a.own(cmd, &cfg.Common, &cfg.Waggle)
	return cmd
}

func (a *app) startup() *cobra.Command {
	var cfg bench.StartupConfig
	cmd := &cobra.Command{
		Use: "startup", Short: "how long a cluster takes to be ready, and what it takes up empty", Args: noArgs,
		Long: "Starts a private cluster on an empty folder, after a clean stop, and after SIGKILL, and\n" +
			"measures the time until a message has gone round, and the memory of the empty cluster.",
		Example: "  waggle-bench startup --repeat 5",
		RunE: func(cmd *cobra.Command, _ []string) error {
			outDir(&cfg.Common)
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			r, err := bench.StartupOf(cmd.Context(), cfg)
			return a.done(&cfg.Common, r, err)
		},
	}
	cmd.Flags().IntVar(&cfg.Repeat, "repeat", 3, "times each start is measured")
	a.own(cmd, &cfg.Common, &cfg.Waggle)
	return cmd
}
