package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func main() {
	// A hint to system administrators that people's verbs would show to all.
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ(),
		inTerminal:  term.IsTerminal(int(os.Stdin.Fd())),
		outTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		errTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		exit:        os.Exit,
		hidden:      func() ([]byte, error) { return term.ReadPassword(int(os.Stdin.Fd())) },
	}
	os.Exit(a.run(stopContext(os.Exit), os.Args[1:]))
}

// stopContext ends at the first signal to stop; the second one ends the
// process at once.
func stopContext(exit func(int)) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the process
		<-signals
		cancel()
		<-signals
		exit(statusFailed)
	}()
	return ctx
}

// app is what the verbs know of the process they run in.
type app struct {
	in       io.Reader
	out, err io.Writer
	environ  []string // NAME=VALUE

	inTerminal, outTerminal, errTerminal bool

	exit   func(int)              // at once
	hidden func() ([]byte, error) // reads a line from the terminal, unseen
}

// run does what args say and returns the exit status. An error is one line on
// standard error.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(append([]string{}, args...))
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(a.err, "waggle: %s\n", oneLine(err.Error()))
	}
	return statusOf(err)
}

// The groups of verbs in `waggle help`.
const (
	groupServers   = "servers"
	groupOperators = "operators"
	groupPeople    = "people"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "waggle",
		Short: "Instant messaging in cells",
		Long: "Waggle is a distributed instant-messaging server, the tools to run it, and a\n" +
			"client for the terminal.\n\n" +
			"Exit status: 0 done, 1 failed, 2 wrong usage or not confirmed, 3 refused (state\n" +
			"does not allow it), 4 timed out.",
		Example: "  waggle dev                                  a whole cluster on this machine\n" +
			"  waggle status                               how it does\n" +
			"  waggle accounts add ann --email ann@example.org\n" +
			"  waggle login ann                            then, as ann:\n" +
			"  waggle chat bob                             full-screen, or line by line:\n" +
			"  waggle send bob 'hello'\n" +
			"  waggle tail",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w (see `%s --help`)", err, cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: groupServers, Title: "Servers:"},
		&cobra.Group{ID: groupOperators, Title: "For those who run them:"},
		&cobra.Group{ID: groupPeople, Title: "For those who chat:"},
	)
	add := func(group string, verbs ...*cobra.Command) {
		for _, v := range verbs {
			v.GroupID = group
		}
		root.AddCommand(verbs...)
	}
	add(groupServers, a.dev(), a.start(), a.config(), a.certs(), a.version())
	add(groupOperators, a.status(), a.cells(), a.nodes(), a.ranges(), a.moves(), a.edges(), a.audit(), a.users(), a.accounts())
	add(groupPeople, a.register(), a.login(), a.logout(), a.devices(), a.totp(), a.chat(), a.send(), a.tail(), a.threads(), a.history(), a.read(), a.upload(), a.download(), a.files(), a.live(), a.find(), a.friends(), a.profile())
	return chooser(root)
}

// chooser makes cmd, which only has verbs below it, refuse what is none of
// them.
func chooser(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(verbs...)
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		message := fmt.Sprintf("there is no verb %q in `%s`", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef("%s: did you mean %s?", message, strings.Join(near, " or "))
		}
		return usagef("%s (see `%s --help`)", message, cmd.CommandPath())
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.HasParent() {
			return cmd.Help()
		}
		var names []string
		for _, v := range cmd.Commands() {
			names = append(names, v.Name())
		}
		return usagef("`%s` needs a verb: %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	return cmd
}

// args checks the number of arguments, from least to most.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("something is missing: waggle %s", usageOf(cmd))
		case len(args) > most:
			return usagef("%q is too much: waggle %s (a text with spaces needs quotes)", args[most], usageOf(cmd))
		}
		return nil
	}
}

// usageOf is cmd's usage without the program's name.
func usageOf(cmd *cobra.Command) string {
	return strings.TrimSuffix(strings.TrimPrefix(cmd.UseLine(), "waggle "), " [flags]")
}

// getenv is the value of an environment variable, or fallback.
func (a *app) getenv(name, fallback string) string {
	value := fallback
	for _, pair := range a.environ {
		if k, v, _ := strings.Cut(pair, "="); k == name && v != "" {
			value = v
		}
	}
	return value
}
