package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
)

// totpAnswer is what the endpoints of the second factor answer, all in one.
type totpAnswer struct {
	Secret        string   `json:"secret"`
	URL           string   `json:"otpauth_url"`
	RecoveryCodes []string `json:"recovery_codes"`
	Code          string   `json:"code"`
	Detail        string   `json:"detail"`
}

func (a *app) totp() *cobra.Command {
	return chooser(&cobra.Command{Use: "totp", Short: "a second factor for your login: set up, enable, disable",
		Long: "A second factor is the code an authenticator shows: whoever logs in needs it\n" +
			"besides the password. `setup` gives the secret to put into the authenticator,\n" +
			"`enable` turns it on with a code the authenticator shows and prints recovery\n" +
			"codes, each good for one login without it."},
		a.totpVerb("setup", "make a secret for an authenticator", func(t totpAnswer) error {
			return printPairs(a.out, [2]string{"secret", t.Secret}, [2]string{"address", t.URL})
		}),
		a.totpVerb("enable CODE", "turn the second factor on", func(t totpAnswer) error {
			_, err := fmt.Fprintln(a.out, "The second factor is on. Keep these recovery codes; each is good for one login:")
			for _, code := range t.RecoveryCodes {
				_, err = fmt.Fprintln(a.out, "  "+code)
			}
			return err
		}),
		a.totpVerb("disable CODE", "turn the second factor off", func(totpAnswer) error {
			_, err := fmt.Fprintln(a.out, "The second factor is off.")
			return err
		}),
	)
}

func (a *app) totpVerb(use, short string, print func(totpAnswer) error) *cobra.Command {
	n := 1
	if use == "setup" {
		n = 0
	}
	cmd := &cobra.Command{Use: use, Short: short, Args: args(n, n)}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := map[string]string{}
		if len(args) == 1 {
			body["code"] = args[0]
		}
		raw, err := p.askTOTP(cmd.Context(), "/totp/"+cmd.Name(), body)
		if err != nil {
			return err
		}
		if p.json() {
			var doc map[string]any
			if err := json.Unmarshal(raw, &doc); err != nil {
				return err
			}
			delete(doc, "error")
			return printLine(a.out, doc)
		}
		var t totpAnswer
		if err := json.Unmarshal(raw, &t); err != nil {
			return err
		}
		return print(t)
	}
	return cmd
}

// askTOTP asks the profile's server with the profile's token.
func (p *person) askTOTP(ctx context.Context, path string, body map[string]string) ([]byte, error) {
	prof, err := p.loggedIn()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSHandshakeTimeout: p.timeout}
	defer transport.CloseIdleConnections()
	url := "https://" + prof.Server + path
	if prof.Transport == string(client.Plain) {
		url = "http://" + prof.Server + path
	} else if transport.TLSClientConfig, err = roots(prof.CA); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+prof.Token)
	reply, err := (&http.Client{Transport: transport, Timeout: max(p.timeout, loginTimeout)}).Do(req)
	if err != nil {
		return nil, explain(prof.Server, err)
	}
	defer reply.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(reply.Body, loginReplyBytesMax))
	if err != nil {
		return nil, explain(prof.Server, err)
	}
	if reply.StatusCode != http.StatusOK {
		var t totpAnswer
		if json.Unmarshal(answer, &t) != nil || t.Detail == "" {
			t.Detail = fmt.Sprintf("%s answered status %d", url, reply.StatusCode)
		}
		return nil, &loginRefused{t.Code, t.Detail}
	}
	return answer, nil
}
