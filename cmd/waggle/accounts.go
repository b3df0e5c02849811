package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// accountsInFlight bounds the accounts asked for and unanswered; the
	// server works on half as many at once.
	accountsInFlight = 512
	// accountLineBytesMax bounds a line of `accounts add --stdin`.
	accountLineBytesMax = 8 << 10
)

// accountIn is a line of `accounts add --stdin`.
type accountIn struct {
	Name     string `json:"name"`
	Email    string `json:"email"`
	Password string `json:"password"`
}

// accountOut is a line that is printed.
type accountOut struct {
	User         string `json:"user,omitempty"`
	Name         string `json:"name"`
	Token        string `json:"token,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Device       string `json:"device,omitempty"` // the token's
	Error        string `json:"error,omitempty"`
	Code         string `json:"code,omitempty"` // of the error
}

func accountOf(r *controlpb.AddAccountReply) accountOut {
	if r.GetCode() != 0 {
		return accountOut{Name: r.GetName(), Error: r.GetMessage(), Code: codeName(r.GetCode())}
	}
	return accountOut{User: decimal(r.GetUser()), Name: r.GetName(), Token: r.GetToken(), RefreshToken: r.GetRefreshToken(), Device: r.GetDevice()}
}

func (a *app) accounts() *cobra.Command {
	var in accountIn
	var cell, passwordFile string
	var stdin, withToken bool
	add := &cobra.Command{
		Use: "add NAME --email A | --stdin", Short: "make accounts without mailing a code", Args: args(0, 1),
		Long: "Makes one account, or with --stdin one for each line {\"name\",\"email\",\"password\"} of\n" +
			"JSON. Without a password nobody can log in with one. --stdin prints one line\n" +
			"per account, in order, as each is done: {\"user\",\"name\"}, with --with-token also\n" +
			"token, refresh_token and the device they are for; for one that failed\n" +
			"{\"name\",\"error\",\"code\"}, and the exit status is 1.",
		Example: "  waggle accounts add ann --email ann@example.org --cell c1",
	}
	o := a.operatorFlags(add, startTimeout)
	f := add.Flags()
	f.StringVar(&in.Email, "email", "", "mail `ADDRESS`")
	f.StringVar(&passwordFile, "password-file", "", "`FILE` with the password; without it, it is asked for on a terminal")
	f.StringVar(&cell, "cell", "", "`CELL` to live in; default: the one with most headroom")
	f.BoolVar(&stdin, "stdin", false, "make one account per line of standard input")
	f.BoolVar(&withToken, "with-token", false, "with --stdin: log a device of each in")
	add.RunE = func(cmd *cobra.Command, args []string) error {
		if stdin {
			if len(args) > 0 || in.Email != "" || passwordFile != "" {
				return usagef("--stdin takes names, addresses and passwords from standard input only")
			}
			if !cmd.Flags().Changed("timeout") {
				o.timeout = 0 // as long as there are lines
			}
			return o.call(cmd.Context(), func(ctx context.Context, c controlpb.OperatorClient) error {
				return a.addAccounts(ctx, c, &controlpb.AddAccountRequest{Cell: cell, WithToken: withToken})
			})
		}
		switch {
		case len(args) == 0:
			return usagef("a NAME is missing, or --stdin: waggle %s", usageOf(cmd))
		case in.Email == "":
			return usagef("--email is missing")
		case withToken:
			return usagef("--with-token needs --stdin")
		}
		in.Name = args[0]
		var err error
		if in.Password, err = a.newPassword(in.Name, passwordFile); err != nil {
			return err
		}
		return a.addAccount(cmd.Context(), o, in, cell)
	}
	return chooser(&cobra.Command{Use: "accounts", Short: "accounts: add"}, add)
}

// newPassword is the password of a new account, empty for none.
func (a *app) newPassword(name, file string) (string, error) {
	if file == "" && !a.inTerminal {
		return "", nil
	}
	return a.password("Password for "+name+" (empty: none): ", file)
}

// password reads a password from a file, or asks for it on the terminal.
func (a *app) password(prompt, file string) (string, error) {
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("--password-file: %w", err)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r"), nil
	}
	if !a.inTerminal {
		return "", usagef("there is no terminal to ask for the password on: give --password-file FILE")
	}
	fmt.Fprint(a.err, prompt)
	raw, err := a.hidden()
	fmt.Fprintln(a.err)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(raw), nil
}

func (a *app) addAccount(ctx context.Context, o *operator, in accountIn, cell string) error {
	var reply *controlpb.AddAccountReply
	err := o.call(ctx, func(ctx context.Context, c controlpb.OperatorClient) error {
		stream, err := c.AddAccounts(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(in.request(&controlpb.AddAccountRequest{Cell: cell})); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		reply, err = stream.Recv() // has the error of a failed Send
		return err
	})
	if err != nil {
		return err
	}
	if err := proto.FromWire(reply.Code, reply.Message, 0); err != nil {
		return err
	}
	out := accountOf(reply)
	if o.output.value == "json" {
		return printDocument(a.out, out)
	}
	return printPairs(a.out, [2]string{"user", out.User}, [2]string{"name", out.Name})
}

func (in accountIn) request(all *controlpb.AddAccountRequest) *controlpb.AddAccountRequest {
	return &controlpb.AddAccountRequest{Name: in.Name, Email: in.Email, Password: in.Password, Cell: all.Cell, WithToken: all.WithToken}
}

// accountAsked is a line that was read: it waits for its answer, or was found
// wrong here.
type accountAsked struct{ wrong *accountOut }

// addAccounts makes an account of each line. The server answers in the order
// asked, so what is printed is in the order of the lines.
func (a *app) addAccounts(ctx context.Context, c controlpb.OperatorClient, all *controlpb.AddAccountRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.AddAccounts(ctx)
	if err != nil {
		return err
	}
	asked := make(chan accountAsked, accountsInFlight)
	reading := make(chan error, 1)
	go func() { // ends with the input, or when ctx does: then with the process
		defer close(asked)
		reading <- readAccounts(ctx, a.in, stream, asked, all)
	}()
	done, failed := 0, 0
	progress := a.newProgress("accounts done")
	for {
		var q accountAsked
		var more bool
		select {
		case q, more = <-asked:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !more {
			break
		}
		out := q.wrong
		if out == nil {
			reply, err := stream.Recv()
			if err != nil {
				return err
			}
			answer := accountOf(reply)
			out = &answer
		}
		if done++; out.Error != "" {
			failed++
		}
		if err := printLine(a.out, out); err != nil {
			return err
		}
		progress.show(done)
	}
	progress.end()
	if err := <-reading; err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d accounts were not made: their lines say why", failed, done)
	}
	return nil
}

// readAccounts asks for an account per line.
func readAccounts(ctx context.Context, in io.Reader, stream grpc.BidiStreamingClient[controlpb.AddAccountRequest, controlpb.AddAccountReply],
	asked chan<- accountAsked, all *controlpb.AddAccountRequest) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 4096), accountLineBytesMax)
	n := 0
	for lines.Scan() {
		n++
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var account accountIn
		var q accountAsked
		if err := json.Unmarshal(lines.Bytes(), &account); err != nil {
			q.wrong = &accountOut{Name: account.Name, Error: fmt.Sprintf("line %d is not {\"name\",\"email\",\"password\"}: %v", n, err), Code: proto.CodeBadRequest.String()}
		}
		select {
		case asked <- q:
		case <-ctx.Done():
			return ctx.Err()
		}
		if q.wrong != nil {
			continue
		}
		if err := stream.Send(account.request(all)); err != nil {
			return nil // Recv has the reason
		}
	}
	if err := lines.Err(); err != nil {
		_ = stream.CloseSend()
		return fmt.Errorf("standard input, line %d: %w (at most %d bytes)", n+1, err, accountLineBytesMax)
	}
	return stream.CloseSend()
}

// progress is a count on standard error, for work that takes long. It is shown
// where a person sees it and nothing else tells how far things are.
type progress struct {
	a     *app
	what  string
	last  time.Time
	shown bool
}

// progressEvery is how often a count is shown, and after which time first.
const progressEvery = time.Second

func (a *app) newProgress(what string) *progress {
	return &progress{a: a, what: what, last: time.Now()}
}

func (p *progress) show(done int) {
	if !p.a.errTerminal || p.a.outTerminal || time.Since(p.last) < progressEvery {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.a.err, "\r%d %s", done, p.what)
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.a.err)
	}
}
