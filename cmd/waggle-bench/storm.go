package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/bench"
)

func (a *app) storm() *cobra.Command {
	var cfg bench.StormConfig
	cmd := &cobra.Command{
		Use: "storm", Short: "break all connections at once and see them come back", Args: noArgs,
		Long: "Connects people with the SDK, breaks all their connections at one moment and measures\n" +
			"the time until 50, 90, 99 and 100 % have resumed, by the SDK's own random waits.\n" +
			"Meanwhile others write to a part of them; none of it may be missed.",
		Example: "  waggle-bench storm --connections 10000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			outDir(&cfg.Common)
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			r, err := bench.StormOf(cmd.Context(), cfg)
			return a.done(&cfg.Common, r, err)
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Connections, "connections", 1000, "connections to break, each with an account of its own")
	f.IntVar(&cfg.Part, "part", 200, "`PEOPLE` of them who are written to meanwhile")
	f.Float64Var(&cfg.Rate, "rate", 100, "`MSGS/S` to them")
	f.IntVar(&cfg.SizeBytes, "size", 200, "`BYTES` of a message")
	f.DurationVar(&cfg.MaxWait, "max-wait", time.Minute, "for all to be back")
	a.common(cmd, &cfg.Common)
	return cmd
}
