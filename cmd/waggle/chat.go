package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/cmd/waggle/chatscreen"
)

func (a *app) chat() *cobra.Command {
	cmd := &cobra.Command{
		Use: "chat [T]", Short: "full-screen chat", Args: args(0, 1),
		Long: "Shows your threads, newest first, and the conversation that is open: your own\n" +
			"messages on the right with how far they got (… on its way, ✓ stored, ✓✓ delivered,\n" +
			"✓✓ read), those of others on the left. F1 tells the keys; F2 shows friends and\n" +
			"requests, F3 finds people, F4 is your profile; ctrl+q leaves.\n" +
			"/upload PATH sends a file, /download fetches the last one, or the one chosen by\n" +
			"ctrl+f. T is a user name, an id or a thread to open first. It wants a terminal of at least\n" +
			"40 columns and 10 lines, and connects again by itself.",
		Example: "  waggle chat bob",
	}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if p.json() {
			return usagef("the full-screen chat prints no JSON: `waggle tail -o json` does")
		}
		if !a.inTerminal || !a.outTerminal {
			return usagef("the full-screen chat needs a terminal: `waggle tail` and `waggle send` do without")
		}
		prof, err := p.loggedIn()
		if err != nil {
			return err
		}
		dir, err := p.profileDir()
		if err != nil {
			return err
		}
		var first target
		if len(args) == 1 {
			if first, err = parseTarget(args[0]); err != nil {
				return err
			}
		}
		screen := chatscreen.New(a.in, a.out)
		defer screen.Close()
		s, err := p.connect(cmd.Context(), func(c *client.Config) { screen.Configure(c) })
		if err != nil {
			return err
		}
		defer s.close()
		defer screen.Close() // or the client's callbacks would wait for it
		who := chatscreen.Who{
			User: s.me, Name: prof.Name, Uploads: filepath.Join(dir, uploadsDir), Locks: filepath.Join(dir, downloadsDir),
		}
		if len(args) == 1 {
			if who.Thread, err = s.threadOf(cmd.Context(), first); err != nil {
				return err
			}
		}
		return explain(s.server, screen.Run(cmd.Context(), s.Client, who, func() error { <-s.done; return s.err }))
	}
	return cmd
}
