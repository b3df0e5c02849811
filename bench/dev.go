package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// devReadyMax is how long a cluster may take until a message has gone
	// round; devStopMax, until it has stopped.
	devReadyMax = 2 * time.Minute
	devStopMax  = 20 * time.Second
	// devLook is how often it is looked for the file that says so.
	devLook = 2 * time.Millisecond
	// devConfig lifts the limits per user and per address.
	devConfig = "cell: {messages_per_second: -1}\nedge: {exempt_loopback: true}\n"
)

// dev is a private cluster, `waggle dev` in a folder of its own. It can be
// started again after it has stopped.
type dev struct {
	waggle string // program
	dir    string
	flags  []string
	addrs  []string // client, admin, RTSP, RTMP
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process has
}

// newDev makes the folder, under the system's for temporary files.
func newDev(waggle string, flags ...string) (*dev, error) {
	dir, err := os.MkdirTemp("", "waggle-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: a folder for a cluster: %w", err)
	}
	d := &dev{waggle: waggle, dir: dir, flags: flags}
	err = os.WriteFile(d.path("bench.yaml"), []byte(devConfig), 0o600)
	if err == nil {
		d.addrs, err = freeAddrs(4)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return d, nil
}

func (d *dev) path(name string) string { return filepath.Join(d.dir, name) }

// freeAddrs are loopback addresses that nothing listens on, by TCP or UDP.
func freeAddrs(n int) (out []string, err error) {
	var held []interface{ Close() error }
	defer func() {
		for _, h := range held {
			_ = h.Close()
		}
	}()
	for tries := 0; len(out) < n; tries++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("bench: a free port: %w", err)
		}
		held = append(held, l)
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			if tries > 100 {
				return nil, fmt.Errorf("bench: a free port: %w", err)
			}
			continue
		}
		held = append(held, u)
		out = append(out, l.Addr().String())
	}
	return out, nil
}

// start starts the cluster and waits until a message has gone round. It returns
// how long that took.
func (d *dev) start(ctx context.Context) (time.Duration, error) {
	ready := d.path("ready")
	_ = os.Remove(ready)
	log, err := os.OpenFile(d.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	args := append([]string{
		"dev", "--no-demo", "--config", d.path("bench.yaml"), "--data", d.path("data"), "--listen", d.addrs[0], "--admin", d.addrs[1],
		"--rtsp", d.addrs[2], "--rtmp", d.addrs[3], "--ready-file", ready,
	}, d.flags...)
	d.cmd = exec.Command(d.waggle, args...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	begin := time.Now()
	if err := d.cmd.Start(); err != nil {
		d.cmd = nil
		return 0, fmt.Errorf("start a cluster: %w (--waggle names the program)", err)
	}
	cmd, ended := d.cmd, make(chan struct{})
	d.ended = ended
	go func() { // ends with the process, for which stop and kill wait
		defer close(ended)
		_ = cmd.Wait()
	}()
	for {
		if _, err := os.Stat(ready); err == nil {
			return time.Since(begin), nil
		}
		select {
		case <-ended:
			return 0, fmt.Errorf("the cluster ended (%s): %s", cmd.ProcessState, d.lastWords())
		default:
		}
		if time.Since(begin) > devReadyMax {
			return 0, fmt.Errorf("the cluster is not ready after %s: %s", devReadyMax, d.lastWords())
		}
		if !pause(ctx, devLook) {
			return 0, ctx.Err()
		}
	}
}

// lastWords are the end of its log.
func (d *dev) lastWords() string {
	raw, _ := os.ReadFile(d.path("log"))
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// stop ends the cluster gently.
func (d *dev) stop() error {
	if d.cmd == nil {
		return nil
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(devStopMax):
		d.kill()
		return fmt.Errorf("the cluster did not stop within %s: %s", devStopMax, d.lastWords())
	}
	state := d.cmd.ProcessState
	d.cmd = nil
	if !state.Success() {
		return fmt.Errorf("the cluster ended with %s: %s", state, d.lastWords())
	}
	return nil
}

// kill ends it at once.
func (d *dev) kill() {
	if d.cmd != nil {
		_ = d.cmd.Process.Kill()
		<-d.ended
		d.cmd = nil
	}
}

// close ends it and removes its folder.
func (d *dev) close() {
	d.kill()
	_ = os.RemoveAll(d.dir)
}

// common is what a measurement of the cluster needs.
func (d *dev) common(from Common, out string) Common {
	from.Server, from.Admin, from.CA, from.Out = d.addrs[0], d.addrs[1], d.path("data/ca.pem"), out
	return from
}
