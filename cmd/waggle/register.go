package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
)

const (
	// codeAuto reads the code from a development cluster.
	codeAuto = "auto"
	// codePoll is the pause between looks for the mail.
	codePoll = 100 * time.Millisecond
	// mailBytesMax bounds the answer of /dev/mail.
	mailBytesMax = 1 << 20
)

// registration is what `register` sends.
type registration struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Email    string `json:"email"`
	Code     string `json:"cpatcha"`
}

func (a *app) register() *cobra.Command {
	var in registration
	var passwordFile, admin string
	cmd := &cobra.Command{
		Use: "register NAME --email A", Short: "make an account for yourself", Args: args(1, 1),
		Long: "Has a code mailed to the address and makes an account with it. With --code the\n" +
			"code of an earlier mail is used and none is sent; --code auto reads it from a\n" +
			"development cluster, by way of --admin. Then `waggle login NAME`.",
		Example: "  waggle register ann --email ann@example.org\n  waggle register bob --email bob@example.org --code auto --password-file bob.txt",
	}
	p := a.personFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&in.Email, "email", "", "mail `ADDRESS`; without it, it is asked for")
	f.StringVar(&in.Code, "code", "", "`CODE` of a mail that has come, or auto; without it, one is sent and asked for")
	f.StringVar(&passwordFile, "password-file", "", "`FILE` with the password; without it, it is asked for")
	f.StringVar(&admin, "admin", a.getenv("WAGGLE_ADMIN", defaultAdmin), "`ADDR` of the development cluster's admin address, for --code auto (WAGGLE_ADMIN)")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		in.Username = args[0]
		if err := p.check(); err != nil {
			return err
		}
		if in.Email == "" {
			if in.Email, err = a.ask("Mail address: ", "--email ADDRESS"); err != nil {
				return err
			}
		}
		if in.Password, err = a.password("Password for "+in.Username+": ", passwordFile); err != nil {
			return err
		}
		prof, err := p.forLogin(in.Username, "", "")
		if err != nil {
			return err
		}
		api, err := newAccountAPI(prof, max(p.timeout, loginTimeout))
		if err != nil {
			return err
		}
		defer api.close()
		ctx := cmd.Context()
		if in.Code, err = a.codeFor(ctx, api, in, admin); err != nil {
			return err
		}
		answer, err := api.post(ctx, "/post_registration", in)
		if err != nil {
			return fmt.Errorf("registration of %s: %w", in.Username, err)
		}
		if p.json() {
			return printLine(a.out, map[string]string{"user": answer.UUID, "name": answer.Username, "email": answer.Email})
		}
		_, err = fmt.Fprintf(a.out, "%s is registered as user %s: waggle login %s\n", answer.Username, answer.UUID, answer.Username)
		return err
	}
	return cmd
}

// codeFor is the code to register with.
func (a *app) codeFor(ctx context.Context, api *accountAPI, in registration, admin string) (string, error) {
	if in.Code != "" && in.Code != codeAuto {
		return in.Code, nil
	}
	if in.Code == "" && !a.inTerminal {
		return "", usagef("there is no terminal to ask for the code on: give --code CODE or --code auto")
	}
	before := ""
	if in.Code == codeAuto {
		mail, _, err := devMail(ctx, admin, in.Email)
		if err != nil {
			return "", err
		}
		before = mail.Code
	}
	_, err := api.post(ctx, "/get_verification", map[string]string{"email": in.Email})
	if err != nil {
		return "", fmt.Errorf("have a code sent to %s: %w", in.Email, err)
	}
	if in.Code == codeAuto {
		return waitForCode(ctx, admin, in.Email, before)
	}
	return a.ask("Code mailed to "+in.Email+": ", "--code CODE")
}

// waitForCode waits for a mail with another code than the one before.
func waitForCode(ctx context.Context, admin, email, before string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	for {
		mail, ok, err := devMail(ctx, admin, email)
		if err != nil {
			return "", err
		}
		if ok && mail.Code != "" && mail.Code != before {
			return mail.Code, nil
		}
		select {
		case <-time.After(codePoll):
		case <-ctx.Done():
			return "", timedOut(fmt.Errorf("no mail for %s came to the development cluster at %s: does its mail sink run?", email, admin))
		}
	}
}

// ask reads a line from the terminal; flag is what to give without one.
func (a *app) ask(prompt, flag string) (string, error) {
	if !a.inTerminal {
		return "", usagef("there is no terminal to ask on: give %s", flag)
	}
	fmt.Fprint(a.err, prompt)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", usagef("nothing was entered: give %s", flag)
	}
	return line, nil
}

// devMail asks a development cluster for the last mail of an address.
func devMail(ctx context.Context, admin, email string) (mail struct {
	Code string `json:"code"`
}, ok bool, err error) {
	where := "http://" + admin + "/dev/mail?to=" + url.QueryEscape(email)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return mail, false, usagef("--admin %s: not HOST:PORT", admin)
	}
	reply, err := http.DefaultClient.Do(req)
	if err != nil {
		return mail, false, fmt.Errorf("--code auto needs the admin address of a development cluster (--admin %s): %w", admin, err)
	}
	defer reply.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(reply.Body, mailBytesMax))
	switch {
	case err != nil:
		return mail, false, err
	case reply.StatusCode == http.StatusNotFound && strings.HasPrefix(string(raw), "no mail"):
		return mail, false, nil
	case reply.StatusCode != http.StatusOK:
		return mail, false, fmt.Errorf("--code auto: %s does not show mails (%s): only development clusters do", admin, oneLine(string(raw)))
	}
	return mail, true, json.Unmarshal(raw, &mail)
}

// accountAPI calls a server's account endpoints.
type accountAPI struct {
	http *http.Client
	base string
	prof profile
}

func newAccountAPI(prof profile, timeout time.Duration) (*accountAPI, error) {
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSHandshakeTimeout: timeout}
	base := "https://" + prof.Server
	if prof.Transport == string(client.Plain) {
		base = "http://" + prof.Server
	} else {
		var err error
		if transport.TLSClientConfig, err = roots(prof.CA); err != nil {
			return nil, err
		}
	}
	return &accountAPI{http: &http.Client{Transport: transport, Timeout: timeout}, base: base, prof: prof}, nil
}

func (c *accountAPI) close() { c.http.CloseIdleConnections() }

// post asks once and explains what went wrong.
func (c *accountAPI) post(ctx context.Context, path string, body any) (loginAnswer, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return loginAnswer{}, err
	}
	answer, _, err := askLogin(ctx, c.http, c.base+path, raw)
	if e, ok := errors.AsType[*loginRefused](err); ok {
		if e.code == "name_taken" {
			return answer, refused(e)
		}
		return answer, e
	}
	if err != nil {
		return answer, explain(c.prof.Server, err)
	}
	return answer, nil
}
