package devcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/waggle-im/waggle/internal/atomicfile"
)

const (
	shapeFile   = "cluster.json"
	shapeFormat = 1
	// Internal ports lie below the range from which systems take the ports
	// of outgoing connections: a node that restarts must find its own free.
	portMin, portMax = 20_000, 32_000
)

// ErrRefused marks what the state of the data directory does not allow: it is
// in use, or the options contradict it.
var ErrRefused = errors.New("refused")

// shape is what a data directory fixes.
type shape struct {
	Format     int                  `json:"format"`
	Cells      []string             `json:"cells"` // those added later too
	Removed    []string             `json:"removed,omitempty"`
	Asked      int                  `json:"asked"` // cells by --cells
	Replicas   int                  `json:"replicas"`
	Edges      int                  `json:"edges"`
	SplitRoles bool                 `json:"split_roles"`
	Ports      map[string]nodePorts `json:"ports"` // by node
}

// nodePorts are the loopback addresses of one node.
type nodePorts struct {
	GRPC   string `json:"grpc"`            // etcd: its client port; services: their port
	Admin  string `json:"admin,omitempty"` // services: none
	Peer   string `json:"peer,omitempty"`  // etcd only
	Client string `json:"edge,omitempty"`  // edges after the first
	Plain  string `json:"plain,omitempty"` // edges after the first, with --plaintext
	Files  string `json:"files,omitempty"` // nodes of cells
	RTSP   string `json:"rtsp,omitempty"`  // the same
	RTMP   string `json:"rtmp,omitempty"`
	Via    string `json:"via,omitempty"` // where others call GRPC, if not there: see [WriteVia]
}

// called is where others call the node.
func (p nodePorts) called() string {
	if p.Via != "" {
		return p.Via
	}
	return p.GRPC
}

// WriteVia makes the shape of a new data directory in which nodes are called
// by other addresses than those they listen at: proxies stand there, to try
// bad links. Where a node listens tells [Listens] once the cluster runs.
//
// Errors: the directory has a shape already.
func WriteVia(o Options, via map[string]string) error {
	file := filepath.Join(o.DataDir, shapeFile)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data directory: %s exists already", file)
	}
	s, err := loadShape(o)
	if err != nil {
		return err
	}
	for node, addr := range via {
		s.Ports[node] = nodePorts{Via: addr}
	}
	return s.save(o.DataDir)
}

// Listens is the address at which a node of the data directory listens.
func Listens(dir, node string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, shapeFile))
	if err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	s := new(shape)
	if err := json.Unmarshal(raw, s); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	addr := s.Ports[node].GRPC
	if addr == "" {
		return "", fmt.Errorf("data directory: node %q has no address yet", node)
	}
	return addr, nil
}

// Nodes are the names of the nodes that a cluster made by o consists of.
func Nodes(o Options) ([]string, error) {
	s, err := loadShape(o)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range s.nodes(o.Procs) {
		out = append(out, n.name)
	}
	return out, nil
}

// loadShape reads the directory's shape, or takes it from the options, and
// refuses options that contradict it.
func loadShape(o Options) (*shape, error) {
	s := &shape{Format: shapeFormat, Ports: map[string]nodePorts{}}
	raw, err := os.ReadFile(filepath.Join(o.DataDir, shapeFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Replicas, s.Edges, s.SplitRoles = max(o.Replicas, 1), max(o.Edges, 1), o.SplitRoles
		s.Asked = o.Cells
		if s.Asked == 0 {
			s.Asked = 2
		}
		s.nameCells()
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := json.Unmarshal(raw, s); err != nil || s.Format != shapeFormat {
		return nil, fmt.Errorf("%s cannot be read (%v): it was not written by this release; move the directory away to start afresh",
			filepath.Join(o.DataDir, shapeFile), err)
	}
	contradicts := func(flag string, asked, have any) error {
		return fmt.Errorf("%w: %s %v contradicts %s, which was made with %v: leave the flag out, or use another --data directory", ErrRefused, flag, asked, o.DataDir, have)
	}
	switch {
	case o.Replicas != 0 && o.Replicas != s.Replicas:
		return nil, contradicts("--replicas", o.Replicas, s.Replicas)
	case o.SplitSet && o.SplitRoles != s.SplitRoles:
		return nil, contradicts("--split-roles", o.SplitRoles, s.SplitRoles)
	case o.Cells != 0 && o.Cells < s.Asked:
		return nil, contradicts("--cells", o.Cells, s.Asked)
	case o.Edges != 0 && o.Edges < s.Edges:
		return nil, contradicts("--edges", o.Edges, s.Edges)
	}
	s.Asked, s.Edges = max(o.Cells, s.Asked), max(o.Edges, s.Edges)
	s.nameCells()
	return s, nil
}

// nameCells adds c1, c2 … up to the number asked for.
func (s *shape) nameCells() {
	for i := 1; i <= s.Asked; i++ {
		if name := fmt.Sprintf("c%d", i); !slices.Contains(s.Removed, name) {
			s.addCell(name)
		}
	}
}

func (s *shape) removeCell(name string) {
	s.Cells = slices.DeleteFunc(s.Cells, func(have string) bool { return have == name })
	s.Removed = append(s.Removed, name)
}

func (s *shape) addCell(name string) {
	if !slices.Contains(s.Cells, name) {
		s.Cells = append(s.Cells, name)
	}
	s.Removed = slices.DeleteFunc(s.Removed, func(gone string) bool { return gone == name })
}

func (s *shape) save(dir string) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, shapeFile), append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

// node is one node of the plan.
type node struct {
	name  string
	role  string
	cell  string
	roles []string
	index int // of an edge, from 0
}

// nodes are all nodes of the shape, in the order they start.
func (s *shape) nodes(procs bool) []node {
	out := []node{{name: "etcd", role: "etcd"}, {name: "cp1", role: "controlplane"}}
	if procs {
		out = append(out, node{name: "cp2", role: "controlplane"})
	}
	for _, cell := range s.Cells {
		out = append(out, s.cellNodes(cell)...)
	}
	for i := range s.Edges {
		out = append(out, node{name: fmt.Sprintf("e%d", i+1), role: "edge", index: i})
	}
	return out
}

// services are what runs beside the nodes, with ports of its own.
func (s *shape) services() []node {
	return []node{{name: serviceRedis}, {name: serviceMail}}
}

// cellNodes are the nodes of one cell: as many storage nodes as replicas, and
// with split roles two chat nodes.
func (s *shape) cellNodes(cell string) []node {
	all := []string{"chat", "storage", "resource"}
	if s.SplitRoles {
		all = []string{"storage"}
	}
	var out []node
	for range s.Replicas {
		out = append(out, node{name: fmt.Sprintf("%s-n%d", cell, len(out)+1), role: "cell", cell: cell, roles: all})
	}
	if s.SplitRoles {
		for range 2 {
			out = append(out, node{name: fmt.Sprintf("%s-n%d", cell, len(out)+1), role: "cell", cell: cell, roles: []string{"chat", "resource"}})
		}
	}
	return out
}

// firstResource is the first cell's first node with the resource role: it has
// the addresses for livestreams that people choose.
func (s *shape) firstResource() string {
	for _, cell := range s.Cells {
		for _, n := range s.cellNodes(cell) {
			if slices.Contains(n.roles, "resource") {
				return n.name
			}
		}
	}
	return ""
}

// assignPorts gives every node its ports, the same as before where they are
// still free.
func (s *shape) assignPorts(nodes []node) error {
	taken := map[string]bool{}
	for _, p := range s.Ports {
		for _, a := range []string{p.GRPC, p.Admin, p.Peer, p.Client, p.Plain, p.Files, p.RTSP, p.RTMP, p.Via} {
			taken[a] = true
		}
	}
	keep := func(addr *string, wanted bool) error {
		if !wanted || *addr != "" && free(*addr) {
			return nil
		}
		for range 1000 {
			a := net.JoinHostPort("127.0.0.1", strconv.Itoa(portMin+rand.IntN(portMax-portMin)))
			if !taken[a] && free(a) {
				taken[a] = true
				*addr = a
				return nil
			}
		}
		return errors.New("no free port was found on 127.0.0.1")
	}
	for _, n := range nodes {
		p := s.Ports[n.name]
		for _, part := range []struct {
			addr   *string
			wanted bool
		}{
			{&p.GRPC, true}, {&p.Admin, n.role != ""}, {&p.Peer, n.role == "etcd"},
			{&p.Files, n.role == "cell"}, {&p.RTSP, n.role == "cell"}, {&p.RTMP, n.role == "cell"},
			{&p.Client, n.role == "edge" && n.index > 0}, {&p.Plain, n.role == "edge" && n.index > 0},
		} {
			if err := keep(part.addr, part.wanted); err != nil {
				return err
			}
		}
		s.Ports[n.name] = p
	}
	return nil
}

// free tells whether addr can be listened on, TCP and UDP.
func free(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	_ = l.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	_ = u.Close()
	return true
}
