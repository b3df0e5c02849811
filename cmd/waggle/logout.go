package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/proto"
)

// logoutLine is what `logout -o json` prints.
type logoutLine struct {
	User   string `json:"user"`
	Name   string `json:"name"`
	Device string `json:"device"`
	Ended  bool   `json:"ended"` // the server has confirmed it, or had ended it before
}

func (a *app) logout() *cobra.Command {
	var everywhere bool
	cmd := &cobra.Command{
		Use: "logout", Short: "end the login of the profile and forget it", Args: args(0, 0),
		Long: "Ends the profile's device on the server and removes the login from the profile.\n" +
			"A server that cannot be reached is said on standard error, and the profile is\n" +
			"forgotten in any case. With --everywhere every device of yours is logged out;\n" +
			"then it is a failure when the server could not be told.",
	}
	p := a.personFlags(cmd)
	cmd.Flags().BoolVar(&everywhere, "everywhere", false, "end every login of yours, not only this one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := p.check(); err != nil {
			return err
		}
		dir, err := p.profileDir()
		if err != nil {
			return err
		}
		prof, err := loadProfile(dir)
		if errors.Is(err, errNoProfile) {
			return refused(err)
		}
		unreadable := err != nil
		var failed error
		if !unreadable {
			failed = p.endLogin(cmd.Context(), everywhere)
		}
		if err := os.Remove(filepath.Join(dir, profileFile)); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		lost := lostLogout(prof, failed)
		if lost != nil && !everywhere {
			fmt.Fprintf(a.err, "waggle: %s\n", oneLine(lost.Error()))
			lost = nil
		}
		return errors.Join(a.saidLogout(p, prof, dir, unreadable, failed), lost)
	}
	return cmd
}

// saidLogout prints what became of it.
func (a *app) saidLogout(p *person, prof profile, dir string, unreadable bool, failed error) error {
	var err error
	switch {
	case p.json():
		return printLine(a.out, logoutLine{prof.User, prof.Name, prof.Device, !unreadable && failed == nil})
	case unreadable:
		_, err = fmt.Fprintf(a.out, "the profile %s, which could not be read, is removed\n", dir)
	case failed == nil:
		_, err = fmt.Fprintf(a.out, "%s is logged out of the device %s\n", prof.Name, prof.Device)
	default:
		_, err = fmt.Fprintf(a.out, "%s is logged out here; the server still knows the device %s\n", prof.Name, prof.Device)
	}
	return err
}

// lostLogout is the error of a logout that the server does not know of.
func lostLogout(prof profile, failed error) error {
	if failed == nil {
		return nil
	}
	return fmt.Errorf("the login is forgotten here, but the server was not told: the device %s stays logged in there (%w): "+
		"end it from another device with `waggle devices end %s`", prof.Device, failed, prof.Device)
}

// endLogin ends the profile's device on the server, or all of the user's. A
// login that the server has ended already is no failure.
func (p *person) endLogin(ctx context.Context, everywhere bool) error {
	s, err := p.connect(ctx, nil)
	if err == nil {
		defer s.close()
		err = s.do(ctx, func(ctx context.Context) error {
			if everywhere {
				return s.EndAllDevices(ctx)
			}
			return s.EndDevice(ctx, "")
		})
	}
	if loginOver(err) && !everywhere { // else other devices may still be logged in
		return nil
	}
	return err
}

// loginOver tells whether a connection has ended because its login has, so
// that there is no coming back.
func loginOver(err error) bool {
	switch proto.CodeOf(err) {
	case proto.CodeDisplaced, proto.CodeSessionEnded, proto.CodeLoggedOut, proto.CodeBadToken:
		return true
	}
	return false
}
