package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// adminTimeout bounds one question to an admin address.
	adminTimeout = 30 * time.Second
	// answerBytesMax bounds an operator's answer.
	answerBytesMax = 64 << 20
)

// account is a user with a logged-in device.
type account struct {
	User   proto.EntityID `json:"user"`
	Token  string         `json:"token"`
	Device string         `json:"device"`
}

// process is one server process and what runs in it.
type process struct {
	name  string // its nodes, joined by +
	pid   int    // 0: not on this machine
	admin string
	edge  bool
}

// cluster asks the operator's side of the cluster under load.
type cluster struct {
	conn      *grpc.ClientConn
	operator  controlpb.OperatorClient
	admin     string
	mode      string // embedded or production
	version   string
	cells     []string // active
	processes []process

	generators []int // processes of the generator, beside this one
}

func openCluster(ctx context.Context, admin string) (*cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+admin, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerBytesMax)))
	if err != nil {
		return nil, fmt.Errorf("--admin %s: %w", admin, err)
	}
	c := &cluster{conn: conn, operator: controlpb.NewOperatorClient(conn), admin: admin}
	st, err := c.operator.Status(ctx, &controlpb.StatusRequest{})
	if err != nil {
		return nil, errors.Join(c.explain(err), conn.Close())
	}
	c.mode, c.version = st.Mode, st.Version
	for _, cell := range st.Cells {
		if cell.State == "active" {
			c.cells = append(c.cells, cell.Cell)
		}
	}
	if len(c.cells) == 0 {
		return nil, errors.Join(errors.New("no cell is active: `waggle status` says why"), conn.Close())
	}
	nodes, err := c.operator.ListNodes(ctx, &controlpb.ListNodesRequest{})
	if err != nil {
		return nil, errors.Join(c.explain(err), conn.Close())
	}
	c.processes = processesOf(nodes.Nodes)
	return c, nil
}

func (c *cluster) close() { _ = c.conn.Close() }

func (c *cluster) explain(err error) error {
	switch st, _ := status.FromError(err); st.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("the admin address %s does not answer (%s): is the cluster running? --admin names another", c.admin, st.Message())
	case codes.Unimplemented:
		return fmt.Errorf("the node at %s serves no operator verbs: name a control plane's admin address with --admin", c.admin)
	}
	return fmt.Errorf("the admin address %s: %w", c.admin, err)
}

// processesOf joins the nodes that share a process.
func processesOf(nodes []*controlpb.NodeStatus) []process {
	var out []process
	for _, n := range nodes {
		if n.State != "alive" {
			continue
		}
		isEdge := slices.Contains(n.Roles, "edge")
		i := slices.IndexFunc(out, func(p process) bool { return p.pid == int(n.Pid) && p.admin == n.Admin })
		if i < 0 {
			out = append(out, process{name: n.Node, pid: int(n.Pid), admin: n.Admin, edge: isEdge})
			continue
		}
		out[i].name += "+" + n.Node
		out[i].edge = out[i].edge || isEdge
	}
	return out
}

// collectGarbage makes every server process give back what it does not use.
func (c *cluster) collectGarbage(ctx context.Context) error {
	for _, p := range c.processes {
		if p.admin == "" {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, adminTimeout)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.admin+"/debug/gc", nil)
		if err == nil {
			req.Close = true // asked too rarely to keep connections
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					err = fmt.Errorf("status %s", resp.Status)
				}
			}
		}
		cancel()
		if err != nil {
			return fmt.Errorf("POST /debug/gc on %s (%s): %w", p.admin, p.name, err)
		}
	}
	return nil
}

// addAccounts makes one account for each entry of cells, which names its cell,
// or leaves the choice to the cluster where it is empty.
func (c *cluster) addAccounts(ctx context.Context, cells []string) ([]account, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.operator.AddAccounts(ctx)
	if err != nil {
		return nil, c.explain(err)
	}
	// Names of one run begin alike and differ from those of other runs.
	prefix := fmt.Sprintf("bench-%x-%x-", time.Now().UnixNano()&0xffffffffff, os.Getpid()&0xffff)
	sent := make(chan struct{})
	defer func() { cancel(); <-sent }()
	go func() { // ends with the list, or when the stream does
		defer close(sent)
		for i, cell := range cells {
			name := fmt.Sprintf("%s%d", prefix, i)
			if stream.Send(&controlpb.AddAccountRequest{Name: name, Email: name + "@bench.invalid", Cell: cell, WithToken: true}) != nil {
				return // Recv has the reason
			}
		}
		_ = stream.CloseSend()
	}()
	out := make([]account, 0, len(cells))
	for range cells {
		r, err := stream.Recv()
		if err != nil {
			return nil, c.explain(err)
		}
		if err := proto.FromWire(r.Code, r.Message, 0); err != nil {
			return nil, fmt.Errorf("make the account %s: %w", r.Name, err)
		}
		out = append(out, account{User: proto.EntityID(r.User), Token: r.Token, Device: r.Device})
	}
	return out, nil
}

// names are the processes' names, for people.
func (c *cluster) names() string {
	var out []string
	for _, p := range c.processes {
		out = append(out, p.name)
	}
	return strings.Join(out, ", ")
}
