package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/internal/config"
	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/version"
	"github.com/waggle-im/waggle/proto"
)

// orphanGrace is how long a node whose supervisor died may take to drain. Its
// ports are wanted by the next start, and nothing acknowledged hangs on it.
const orphanGrace = 2 * time.Second

func (a *app) dev() *cobra.Command {
	var o devcluster.Options
	var file string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "run a whole cluster on this machine",
		Long: "Runs etcd, control plane, cells and edges on this machine, by default in one\n" +
			"process and on loopback only. Everything is kept in the data directory;\n" +
			"starting again resumes. A flag that contradicts the data directory is refused,\n" +
			"except more --cells or --edges.\n\n" +
			"--config names a YAML file whose keys are set for all nodes, as are WAGGLE_*\n" +
			"variables; see `waggle config print-default ROLE`.",
		Example: "  waggle dev\n  waggle dev --cells 3 --replicas 3 --procs",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed
			for _, f := range []struct {
				name  string
				value *int
			}{{"cells", &o.Cells}, {"replicas", &o.Replicas}, {"edges", &o.Edges}} {
				switch {
				case !given(f.name):
					*f.value = 0 // as the data directory has it
				case *f.value < 1:
					return usagef("--%s %d: from 1", f.name, *f.value)
				}
			}
			if given("restart-after") && !o.Procs {
				return usagef("--restart-after needs --procs: in one process there are no children")
			}
			if !given("admin") {
				o.Admin = a.getenv("WAGGLE_ADMIN", o.Admin)
			}
			o.SplitSet = given("split-roles")
			o.Out = a.out
			if err := o.Validate(); err != nil {
				return usagef("%w", err)
			}
			var err error
			if o.Override, err = config.Override(file, a.environ); err != nil {
				return err
			}
			logging := daemon.Config{Log: daemon.LogConfig{Level: "warn"}}
			if err := o.Override(&logging); err != nil {
				return err
			}
			o.Logger = daemon.NewLogger(logging.Log)
			return ended(cmd.Context(), devcluster.Run(cmd.Context(), o))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&o.Cells, "cells", 2, "cells c1, c2, …")
	f.IntVar(&o.Replicas, "replicas", 1, "storage nodes per cell: 1 or 3")
	f.IntVar(&o.Edges, "edges", 1, "edges e1, e2, …")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:7443", "`HOST:PORT` of the first edge, TCP and UDP")
	f.StringVar(&o.Plaintext, "plaintext", "", "second `HOST:PORT` of the first edge, without TLS")
	f.StringVar(&o.RTSP, "rtsp", "127.0.0.1:7554", "`HOST:PORT` for livestreams by RTSP, of the first cell's first resource node")
	f.StringVar(&o.RTMP, "rtmp", "127.0.0.1:7935", "`HOST:PORT` for livestreams by RTMP, of the same")
	f.StringVar(&o.Admin, "admin", "127.0.0.1:7480", "`HOST:PORT` for operator verbs, probes and metrics")
	f.StringVar(&o.DataDir, "data", "./waggle-data", "`DIR` where everything is kept")
	f.BoolVar(&o.Procs, "procs", false, "a process for every node")
	f.DurationVar(&o.RestartAfter, "restart-after", 10*time.Second, "with --procs: start a child that died again after this; 0: never")
	f.BoolVar(&o.SplitRoles, "split-roles", false, "two chat nodes per cell apart from storage")
	f.StringVar(&file, "config", "", "YAML `FILE` with keys for all nodes")
	f.BoolVar(&o.NoDemo, "no-demo", false, "no demo users")
	f.StringVar(&o.ReadyFile, "ready-file", "", "`FILE` written when a message has gone round")
	return cmd
}

// ended is err, nil where it only says that ctx was to end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (a *app) start() *cobra.Command {
	var file string
	var child bool
	cmd := &cobra.Command{
		Use:   "start controlplane|cell|edge --config FILE",
		Short: "run one node",
		Long: "Runs one node until SIGTERM, which drains it; a second signal ends it at once.\n\n" +
			"Every key that is no secret is a flag too, as in --edge.listen. Flags come before\n" +
			"WAGGLE_* variables (WAGGLE_EDGE_LISTEN), these before the file, the file before\n" +
			"defaults. `waggle config print-default ROLE` shows all keys.",
		Example: "  waggle start cell --config /etc/waggle/c1-n1.yaml",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			role := args[0]
			switch role {
			case daemon.RoleControlPlane, daemon.RoleCell, daemon.RoleEdge, daemon.RoleEtcd:
			default:
				return usagef("role %q is not one of controlplane, cell, edge", role)
			}
			if file == "" {
				return usagef("--config is missing: `waggle config print-default %s` prints a file to begin with", role)
			}
			s := config.Sources{Role: role, File: file, Environ: a.environ, Flags: cmd.Flags()}
			ctx := cmd.Context()
			if child {
				// The supervisor has decided everything; what its own
				// environment sets stands in the file.
				s.Environ = nil
				ctx = a.withSupervisor(ctx)
			}
			cfg, err := config.Load(s)
			if err != nil {
				return err
			}
			return ended(ctx, daemon.Serve(ctx, cfg, daemon.NewLogger(cfg.Log)))
		},
	}
	f := cmd.Flags()
	config.AddFlags(f)
	for _, k := range config.Keys() {
		if f.Lookup(k.Name) != nil {
			_ = f.MarkHidden(k.Name) // they exist
		}
	}
	f.StringVar(&file, "config", "", "YAML `FILE`")
	f.BoolVar(&child, "parent-pipe", false, "end when standard input does")
	_ = f.MarkHidden("parent-pipe")
	return cmd
}

// withSupervisor ends when standard input, the other end of which a
// supervisor holds, is closed: by its death too. The process follows soon.
func (a *app) withSupervisor(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, a.in)
		cancel()
		time.Sleep(orphanGrace)
		a.exit(statusFailed)
	}()
	return ctx
}

func (a *app) version() *cobra.Command {
	output := choice{value: "text", allowed: []string{"text", "json"}}
	cmd := &cobra.Command{
		Use: "version", Short: "say what this program is", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := versionJSON{version.Commit(), runtime.Version(), runtime.GOOS, runtime.GOARCH,
				proto.ClientProtocolVersion, proto.StateFormat, proto.RulesVersion}
			if output.value == "json" {
				return printDocument(a.out, v)
			}
			_, err := fmt.Fprintf(a.out, "waggle %s (%s, %s/%s)\nprotocol %d, state format %d, rules %d\n",
				v.Commit, v.Go, v.OS, v.Arch, v.Protocol, v.StateFormat, v.Rules)
			return err
		},
	}
	cmd.Flags().VarP(&output, "output", "o", "how to print")
	return cmd
}

type versionJSON struct {
	Commit      string `json:"commit"`
	Go          string `json:"go"`
	OS          string `json:"os"`
	Arch        string `json:"arch"`
	Protocol    int    `json:"protocol"`
	StateFormat int    `json:"state_format"`
	Rules       int    `json:"rules"`
}
