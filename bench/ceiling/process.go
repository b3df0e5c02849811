package ceiling

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// endMax is how long a process may take to end before it is killed.
const endMax = 20 * time.Second

// order is what a process reads as its first line; it answers with the address
// it listens on, and ends with its input.
type order struct {
	Dir       string   `json:"dir"`
	Follower  bool     `json:"follower,omitempty"`
	Followers []string `json:"followers,omitempty"` // of a leader
	Cert      []byte   `json:"cert,omitempty"`      // DER, of a leader
	Key       []byte   `json:"key,omitempty"`
}

// Process is a server or follower of [Run]: it does what the first line of its
// input says until that ends.
func Process(ctx context.Context, in io.Reader, out io.Writer) error {
	r := bufio.NewReader(in)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("ceiling: no order: %w", err)
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return fmt.Errorf("ceiling: the order: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with in, which belongs to the caller
		_, _ = io.Copy(io.Discard, r)
		cancel()
	}()
	db, err := openStore(o.Dir)
	if err != nil {
		return fmt.Errorf("ceiling: open a store: %w", err)
	}
	return errors.Join(o.obey(ctx, db, out), db.Close())
}

func (o *order) obey(ctx context.Context, db *pebble.DB, out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("ceiling: listen: %w", err)
	}
	defer l.Close()
	if o.Follower {
		if err := json.NewEncoder(out).Encode(l.Addr().String()); err != nil {
			return fmt.Errorf("ceiling: %w", err)
		}
		return follow(ctx, l, db)
	}
	key, err := x509.ParseECPrivateKey(o.Key)
	if err != nil {
		return fmt.Errorf("ceiling: the order: key: %w", err)
	}
	s := newServer(db)
	if len(o.Followers) > 0 {
		if s.followers, err = dialFollowers(ctx, o.Followers); err != nil {
			return err
		}
		defer s.followers.close()
	}
	if err := json.NewEncoder(out).Encode(l.Addr().String()); err != nil {
		return fmt.Errorf("ceiling: %w", err)
	}
	return s.serve(ctx, l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{o.Cert}, PrivateKey: key}}})
}

// process is a child at work.
type process struct {
	cmd  *exec.Cmd
	in   io.Closer
	addr string
}

// start runs a command, which must call [Process], until ctx ends or it is told
// to end.
func start(ctx context.Context, command []string, o order) (*process, error) {
	if len(command) == 0 {
		return nil, errors.New("ceiling: there is no command to start a server with")
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("ceiling: start a server: %w", err)
	}
	p := &process{cmd: cmd, in: in}
	err = json.NewEncoder(in).Encode(o)
	if err == nil {
		err = json.NewDecoder(out).Decode(&p.addr)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ceiling: a server did not start: %w", err), p.end())
	}
	return p, nil
}

// end has the process end, by force if it takes too long.
func (p *process) end() error {
	_ = p.in.Close()
	late := time.AfterFunc(endMax, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("ceiling: a server process: %w", err)
	}
	return nil
}
