package main

import (
	"context"

	"github.com/spf13/cobra"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

func (a *app) users() *cobra.Command {
	return chooser(&cobra.Command{Use: "users", Short: "users: show, where they live, their sessions; disconnect"},
		a.userVerb("show U", "show an account and its devices", a.showUser),
		a.userVerb("where U", "say which range, cell and host a user has", a.showWhere),
		a.userVerb("sessions U", "list the connections of a user", func(o *operator, u *controlpb.ShowUserReply) error {
			return show(o, each(u.GetSessions(), sessionOf), sessionColumns())
		}),
		a.disconnect(),
	)
}

// userVerb makes a verb that shows what the cluster knows of one user.
func (a *app) userVerb(use, short string, print func(*operator, *controlpb.ShowUserReply) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: short + ".\nU is a user name or an id.", Args: args(1, 1)}
	o := a.operatorFlags(cmd, defaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var user *controlpb.ShowUserReply
		err := o.call(cmd.Context(), func(ctx context.Context, c controlpb.OperatorClient) (err error) {
			user, err = c.ShowUser(ctx, &controlpb.ShowUserRequest{User: args[0]})
			return err
		})
		if err != nil {
			return err
		}
		return print(o, user)
	}
	return cmd
}

func (a *app) showUser(o *operator, u *controlpb.ShowUserReply) error {
	v := userOf(u)
	if o.output.value == "json" {
		return printDocument(a.out, v)
	}
	err := printPairs(a.out, [2]string{"user", v.User}, [2]string{"name", v.Name}, [2]string{"email", v.Email},
		[2]string{"state", v.State}, [2]string{"range", v.Range}, [2]string{"cell", v.Cell})
	if err != nil || len(v.Devices) == 0 {
		return err
	}
	return printTable(a.out, v.Devices, true, deviceColumns())
}

func (a *app) showWhere(o *operator, u *controlpb.ShowUserReply) error {
	v := whereOf(u)
	if o.output.value == "json" {
		return printDocument(a.out, v)
	}
	err := printPairs(a.out, [2]string{"user", v.User}, [2]string{"name", v.Name},
		[2]string{"range", v.Range + " (" + v.Start + " to " + v.End + ")"}, [2]string{"cell", v.Cell},
		[2]string{"epoch", decimal(v.Epoch)}, [2]string{"host", v.Host})
	if err != nil || len(v.Sessions) == 0 {
		return err
	}
	return printTable(a.out, v.Sessions, true, sessionColumns())
}
