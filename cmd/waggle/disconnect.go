package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// disconnectJSON is the answer of `users disconnect`.
type disconnectJSON struct {
	User         string `json:"user"`
	Name         string `json:"name"`
	Closed       uint64 `json:"closed"`        // connections
	EndedDevices uint64 `json:"ended_devices"` // logins
	DryRun       bool   `json:"dry_run"`
}

func (a *app) disconnect() *cobra.Command {
	var yes, dryRun, endDevices bool
	cmd := &cobra.Command{
		Use: "disconnect U", Short: "close the connections of a user", Args: args(1, 1),
		Long: "Closes the connections of a user, who may connect again at once. With\n" +
			"--end-devices every login of the user ends too, and the tokens with it.\n" +
			"U is a user name or an id.",
		Example: "  waggle users disconnect ann --dry-run\n  waggle users disconnect ann --end-devices --yes",
	}
	o := a.operatorFlags(cmd, defaultTimeout)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done and do nothing")
	cmd.Flags().BoolVar(&endDevices, "end-devices", false, "end every login too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := &controlpb.DisconnectUserRequest{By: who(), User: args[0], EndDevices: endDevices, DryRun: true}
		reply, err := a.disconnectUser(cmd.Context(), o, req)
		if err != nil {
			return err
		}
		if !dryRun {
			if err := a.confirm(disconnectText(reply, endDevices, "would close", "end")+". Do it?", yes); err != nil {
				return err
			}
			req.DryRun = false
			if reply, err = a.disconnectUser(cmd.Context(), o, req); err != nil {
				return err
			}
		}
		if o.output.value == "json" {
			return printDocument(a.out, disconnectJSON{decimal(reply.User), reply.Name, reply.Closed, reply.EndedDevices, dryRun})
		}
		verb, end := "closed", "ended"
		if dryRun {
			verb, end = "would close", "end"
		}
		_, err = fmt.Fprintln(a.out, disconnectText(reply, endDevices, verb, end))
		return err
	}
	return cmd
}

func (a *app) disconnectUser(ctx context.Context, o *operator, req *controlpb.DisconnectUserRequest) (reply *controlpb.DisconnectUserReply, err error) {
	err = o.call(ctx, func(ctx context.Context, c controlpb.OperatorClient) (err error) {
		reply, err = c.DisconnectUser(ctx, req)
		return err
	})
	return reply, err
}

func disconnectText(r *controlpb.DisconnectUserReply, endDevices bool, verb, end string) string {
	s := fmt.Sprintf("%s %d connections of %s (user %d)", verb, r.Closed, r.Name, r.User)
	if endDevices {
		s += fmt.Sprintf(" and %s %d logins", end, r.EndedDevices)
	}
	return s
}

// confirm asks on a terminal, and refuses elsewhere unless --yes is given.
func (a *app) confirm(question string, yes bool) error {
	if yes {
		return nil
	}
	if !a.inTerminal {
		return usagef("not confirmed: this asks on a terminal and needs --yes elsewhere (--dry-run shows what it would do)")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	line, _ := bufio.NewReader(a.in).ReadString('\n')
	if s := strings.ToLower(strings.TrimSpace(line)); s != "y" && s != "yes" {
		return usagef("not confirmed")
	}
	return nil
}
