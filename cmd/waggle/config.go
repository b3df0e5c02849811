package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/internal/config"
	"github.com/waggle-im/waggle/internal/daemon"
)

func (a *app) config() *cobra.Command {
	return chooser(&cobra.Command{Use: "config", Short: "check, print and explain configuration"},
		&cobra.Command{
			Use: "check FILE", Short: "say whether a node would start with a file", Args: args(1, 1),
			RunE: func(_ *cobra.Command, args []string) error {
				c, err := config.Load(config.Sources{File: args[0]})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(a.out, "ok: %s\n", describe(c))
				return err
			},
		},
		&cobra.Command{
			Use: "print-default ROLE", Short: "print every key of a role, with its default and meaning", Args: args(1, 1),
			Example: "  waggle config print-default cell > c1-n1.yaml",
			RunE: func(_ *cobra.Command, args []string) error {
				text, err := config.PrintDefault(args[0])
				if err != nil {
					return usagef("%w", err)
				}
				_, err = fmt.Fprint(a.out, text)
				return err
			},
		},
		&cobra.Command{
			Use: "explain KEY", Short: "explain one key, as in edge.listen", Args: args(1, 1),
			RunE: func(_ *cobra.Command, args []string) error {
				text, err := config.Explain(args[0])
				if err != nil {
					return usagef("%w", err)
				}
				_, err = fmt.Fprint(a.out, text)
				return err
			},
		})
}

// describe is a node in a few words.
func describe(c daemon.Config) string {
	out := fmt.Sprintf("%s %s", c.Role, c.Node)
	switch c.Role {
	case daemon.RoleCell:
		out += fmt.Sprintf(" of cell %s (%s)", c.Cell.Name, strings.Join(c.Cell.Roles, ", "))
	case daemon.RoleEdge:
		out += " for clients at " + c.Edge.Listen
	}
	if c.Listen != "" {
		out += ", gRPC at " + c.Listen
	}
	if c.Admin != "" {
		out += ", admin at " + c.Admin
	}
	return out + ", data in " + c.DataDir
}
