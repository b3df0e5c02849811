package devcluster

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// demoUser is one of the people a development cluster begins with. Their
// passwords are known, so they exist only where nobody else can connect.
type demoUser struct{ name, password, cell string }

// demoUsers makes the demo users, the first two in different cells.
func (c *Cluster) demoUsers(ctx context.Context) ([]demoUser, error) {
	if c.o.NoDemo || !daemon.Loopback(c.o.Listen) {
		return nil, nil
	}
	cells := c.cells
	users := []demoUser{
		{"ann", "waggle-ann", cells[0]},
		{"bob", "waggle-bob", cells[min(1, len(cells)-1)]},
	}
	var requests []*controlpb.AddAccountRequest
	for _, u := range users {
		requests = append(requests, &controlpb.AddAccountRequest{
			Name: u.name, Email: u.name + "@example.org", Password: u.password, Cell: u.cell,
		})
	}
	_, err := c.addAccounts(ctx, requests)
	return users, err
}

// addAccounts adds accounts through the admin address; those that exist stay
// as they are. It goes on trying while the cluster starts.
func (c *Cluster) addAccounts(ctx context.Context, requests []*controlpb.AddAccountRequest) ([]*controlpb.AddAccountReply, error) {
	conn, err := grpc.NewClient("passthrough:///"+c.admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var replies []*controlpb.AddAccountReply
	for _, req := range requests {
		for {
			reply, err := addAccount(ctx, conn, req)
			if err == nil {
				replies = append(replies, reply)
				break
			}
			why := fmt.Sprintf("account %s: %v", req.Name, err)
			c.ready.Store(&why)
			if err := sleep(ctx, probeRetry); err != nil {
				return nil, err
			}
		}
	}
	return replies, nil
}

// goodTimeout bounds the wait for the whole cluster to be seen; a message has
// gone round by then, so that people need not wait for it.
const goodTimeout = 5 * time.Second

// waitGood waits until the control plane sees every node, so that whoever
// looks right after the start finds what is there.
func (c *Cluster) waitGood(ctx context.Context) error {
	conn, err := grpc.NewClient("passthrough:///"+c.admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	for deadline := time.Now().Add(goodTimeout); time.Now().Before(deadline); {
		askCtx, cancel := context.WithTimeout(ctx, goodTimeout)
		status, err := controlpb.NewOperatorClient(conn).Status(askCtx, &controlpb.StatusRequest{})
		cancel()
		if err == nil && len(status.Problems) == 0 {
			return nil
		}
		if err := sleep(ctx, probeRetry); err != nil {
			return err
		}
	}
	return nil
}

// addAccount adds one account. A name that is taken is no error; the reply
// says so.
func addAccount(ctx context.Context, conn *grpc.ClientConn, req *controlpb.AddAccountRequest) (*controlpb.AddAccountReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := controlpb.NewOperatorClient(conn).AddAccounts(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(req); err != nil {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	reply, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if code := proto.Code(reply.Code); code != proto.CodeOK && code != proto.CodeNameTaken {
		return nil, proto.FromWire(reply.Code, reply.Message, 0)
	}
	return reply, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// welcome prints what runs and what to try.
func (c *Cluster) welcome(users []demoUser) {
	mode := "everything in one process"
	if c.o.Procs {
		mode = "one process per node"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nWaggle is ready. Embedded mode: %s, for trying and developing.\n\n", mode)
	fmt.Fprintf(&b, "  clients    %-18s TLS over TCP, and QUIC over UDP; authority %s\n", c.o.Listen, filepath.Join(shorten(c.o.DataDir), caFile))
	if c.o.Plaintext != "" {
		fmt.Fprintf(&b, "  plaintext  %-18s TCP without TLS\n", c.o.Plaintext)
	}
	if c.o.RTSP != "" || c.o.RTMP != "" {
		fmt.Fprintf(&b, "  live       %-18s RTSP of cell %s; RTMP at %s\n", c.o.RTSP, c.cells[0], c.o.RTMP)
	}
	fmt.Fprintf(&b, "  admin      %-18s http://%s/readyz?verbose, /metrics, /debug/pprof/\n", c.admin, c.admin)
	fmt.Fprintf(&b, "  cells      %s, %d replica(s) each\n", strings.Join(c.cells, ", "), c.shape.Replicas)
	fmt.Fprintf(&b, "  data       %s\n", shorten(c.o.DataDir))
	if len(users) > 0 {
		b.WriteString("\n")
		for _, u := range users {
			fmt.Fprintf(&b, "  %s has the password %s and lives in cell %s\n", u.name, u.password, u.cell)
		}
		login, status := "", ""
		if c.o.Listen != defaultListen {
			login += " --server " + c.o.Listen
		}
		if shorten(c.o.DataDir) != defaultDataDir {
			login += " --ca " + filepath.Join(shorten(c.o.DataDir), caFile)
		}
		if c.admin != defaultAdmin {
			status += " --admin " + c.admin
		}
		fmt.Fprintf(&b, `
Try, in other terminals:

  bin/waggle login bob --profile /tmp/bob%s && bin/waggle chat --profile /tmp/bob
  bin/waggle login ann --profile /tmp/ann%s && bin/waggle send bob "hello" --profile /tmp/ann
  bin/waggle status%s
`, login, login, status)
	}
	b.WriteString("\nCtrl-C stops it; starting again resumes with all data.\n")
	fmt.Fprint(c.o.Out, b.String())
}

// shorten writes a path relative to the current directory where that is
// shorter.
func shorten(path string) string {
	here, err := filepath.Abs(".")
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}
