package cellclient

import (
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/proto/codec"
	"github.com/waggle-im/waggle/sharding"
)

// MessageBytesMax bounds one gRPC message between nodes: a batch is closed
// far below it, so that reaching it is a bug and not load.
const MessageBytesMax = 16 << 20

// Directory knows the cluster as last heard of; it never waits.
type Directory interface {
	// Routes is the route map.
	Routes() *sharding.Map
	// NodeAddr is where a node serves gRPC.
	NodeAddr(proto.NodeID) (addr string, ok bool)
	// CellNodes are the nodes of a cell, those believed alive first.
	CellNodes(proto.CellID) []proto.NodeID
}

// Dialer keeps one gRPC connection per node.
type Dialer struct {
	directory Directory
	clientTLS func(proto.NodeID) *tls.Config
	options   []grpc.DialOption

	mu    sync.Mutex // guards the fields below
	conns map[proto.NodeID]*dialed
}

type dialed struct {
	addr string
	conn *grpc.ClientConn
}

// NewDialer makes a dialer. clientTLS gives the configuration that checks
// that node really answers; nil means no TLS, for tests.
// Options are added to those of every connection.
func NewDialer(directory Directory, clientTLS func(proto.NodeID) *tls.Config, options ...grpc.DialOption) *Dialer {
	return &Dialer{directory: directory, clientTLS: clientTLS, options: options, conns: map[proto.NodeID]*dialed{}}
}

// Conn is the connection to node. It does not wait for it to be up. A node
// that has moved to another address gets a new connection.
func (d *Dialer) Conn(node proto.NodeID) (*grpc.ClientConn, error) {
	addr, ok := d.directory.NodeAddr(node)
	if !ok {
		return nil, proto.Errorf(proto.CodeUnavailable, "node %s is not known", node)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns == nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "shutting down")
	}
	old := d.conns[node]
	if old != nil && old.addr == addr {
		return old.conn, nil
	}
	creds := insecure.NewCredentials()
	if d.clientTLS != nil {
		creds = credentials.NewTLS(d.clientTLS(node))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MessageBytesMax), grpc.MaxCallSendMsgSize(MessageBytesMax), grpc.ForceCodecV2(codec.GRPC())),
		grpc.WithInitialWindowSize(4 << 20),
		grpc.WithInitialConnWindowSize(8 << 20),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A restarted node should be found at once, a dead one not
			// hammered: nodes of one cluster are few and near.
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}),
	}, d.options...)...)
	if err != nil {
		return nil, fmt.Errorf("cellclient: dial %s at %s: %w", node, addr, err)
	}
	if old != nil {
		_ = old.conn.Close() // its streams end and are opened anew
	}
	d.conns[node] = &dialed{addr: addr, conn: conn}
	return conn, nil
}

// Close ends all connections and every stream on them.
func (d *Dialer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		_ = c.conn.Close()
	}
	d.conns = nil
	return nil
}
