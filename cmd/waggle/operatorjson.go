package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// What operators' scripts read. Keys are only added. Ids are decimal strings,
// counts and epochs numbers, lists never null.

type cellJSON struct {
	Cell     string  `json:"cell"`
	State    string  `json:"state"`
	Nodes    uint64  `json:"nodes"`
	Ranges   uint64  `json:"ranges"`
	Users    uint64  `json:"users"`
	Headroom float64 `json:"headroom"` // 0 … 1
}

type nodeJSON struct {
	Node     string   `json:"node"`
	Cell     string   `json:"cell"`
	Roles    []string `json:"roles"`
	Addr     string   `json:"addr"`
	Admin    string   `json:"admin"`
	Pid      int64    `json:"pid"`
	State    string   `json:"state"`
	Ranges   uint64   `json:"ranges"`
	Leaders  uint64   `json:"leaders"`
	Sessions uint64   `json:"sessions"`
	Load     float64  `json:"load"` // 0 … 1
}

type edgeJSON struct {
	Edge     string `json:"edge"`
	TCP      string `json:"tcp"`
	QUIC     string `json:"quic"`
	Admin    string `json:"admin"`
	Pid      int64  `json:"pid"`
	State    string `json:"state"`
	Sessions uint64 `json:"sessions"`
	Plain    string `json:"plain"` // where it takes clients without TLS; empty: nobody is told
}

type rangeJSON struct {
	Range    string   `json:"range"`
	Start    string   `json:"start"`
	End      string   `json:"end"`
	Cell     string   `json:"cell"`
	Epoch    uint64   `json:"epoch"`
	Leader   string   `json:"leader"`
	Host     string   `json:"host"`
	Voters   []string `json:"voters"`
	Learners []string `json:"learners"`
	Entities uint64   `json:"entities"`
	Bytes    uint64   `json:"bytes"`
	Move     string   `json:"move"`  // empty: none
	Rules    uint32   `json:"rules"` // 0: not known
	Sessions uint64   `json:"sessions"`
	Messages float64  `json:"messages_per_s"` // stored in threads that it owns, lately
}

type statusJSON struct {
	Mode                string     `json:"mode"`
	Cluster             string     `json:"cluster"`
	Version             string     `json:"version"`
	Ranges              uint64     `json:"ranges"`
	RangesWithoutLeader uint64     `json:"ranges_without_leader"`
	Cells               []cellJSON `json:"cells"`
	Nodes               []nodeJSON `json:"nodes"`
	Edges               []edgeJSON `json:"edges"`
	Moves               []moveJSON `json:"moves"` // that are not over
	Problems            []string   `json:"problems"`

	Canary *canaryJSON `json:"canary,omitempty"` // absent: none was moved yet
}

// canaryJSON is the last time a range was moved there and back for trying.
type canaryJSON struct {
	Range     string  `json:"range"`
	Rounds    uint64  `json:"rounds"`
	Failures  uint64  `json:"failures"`
	Last      string  `json:"last"`
	SlowestMs float64 `json:"slowest_ms"`
	Messages  uint64  `json:"messages"`
	Error     string  `json:"error"`
}

func canaryOf(c *controlpb.CanaryRecord) *canaryJSON {
	if c == nil {
		return nil
	}
	return &canaryJSON{decimal(c.Range), c.Rounds, c.Failures, jsonTime(c.LastMs), float64(c.SlowestUs) / 1000, c.Messages, c.Error}
}

func (c *canaryJSON) text() string {
	s := fmt.Sprintf("range %s went to another cell and back %d times, last at %s: %d messages, the slowest %.1f ms", c.Range, c.Rounds, c.Last, c.Messages, c.SlowestMs)
	if c.Failures > 0 {
		s += fmt.Sprintf("; %d times something was wrong", c.Failures)
	}
	return s
}

type whereJSON struct {
	User     string        `json:"user"`
	Name     string        `json:"name"`
	Range    string        `json:"range"`
	Start    string        `json:"start"`
	End      string        `json:"end"`
	Cell     string        `json:"cell"`
	Epoch    uint64        `json:"epoch"`
	Host     string        `json:"host"`
	Sessions []sessionJSON `json:"sessions"`
}

type userJSON struct {
	User    string       `json:"user"`
	Name    string       `json:"name"`
	Email   string       `json:"email"`
	State   string       `json:"state"`
	Range   string       `json:"range"`
	Cell    string       `json:"cell"`
	Devices []deviceJSON `json:"devices"`
}

type sessionJSON struct {
	Device    string `json:"device"`
	Edge      string `json:"edge"`
	Transport string `json:"transport"`
	Since     string `json:"since"`
}

type deviceJSON struct {
	Device       string `json:"device"`
	Platform     string `json:"platform"`
	Login        string `json:"login"`
	ConfirmedPts string `json:"confirmed_pts"`
	Ended        bool   `json:"ended"`
}

func each[P, T any](in []*P, convert func(*P) T) []T {
	out := make([]T, 0, len(in))
	for _, p := range in {
		out = append(out, convert(p))
	}
	return out
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func cellOf(c *controlpb.CellStatus) cellJSON {
	return cellJSON{c.GetCell(), c.GetState(), c.GetNodes(), c.GetRanges(), c.GetUsers(), c.GetHeadroom()}
}

func nodeOf(n *controlpb.NodeStatus) nodeJSON {
	return nodeJSON{n.GetNode(), n.GetCell(), list(n.GetRoles()), n.GetAddr(), n.GetAdmin(), n.GetPid(), n.GetState(),
		n.GetRanges(), n.GetLeaders(), n.GetSessions(), n.GetLoad()}
}

func edgeOf(e *controlpb.EdgeStatus) edgeJSON {
	return edgeJSON{e.GetEdge(), e.GetTcp(), e.GetQuic(), e.GetAdmin(), e.GetPid(), e.GetState(), e.GetSessions(), e.GetPlain()}
}

func rangeOf(r *controlpb.RangeStatus) rangeJSON {
	return rangeJSON{decimal(r.GetRange()), decimal(r.GetStart()), decimal(r.GetEnd()), r.GetCell(), r.GetEpoch(), r.GetLeader(),
		r.GetHost(), list(r.GetVoters()), list(r.GetLearners()), r.GetEntities(), r.GetBytes(), r.GetMove(), r.GetRules(), r.GetSessions(), r.GetMessagesPerS()}
}

func statusFrom(s *controlpb.StatusReply) statusJSON {
	return statusJSON{
		Mode: s.GetMode(), Cluster: s.GetCluster(), Version: s.GetVersion(), Ranges: s.GetRanges(),
		RangesWithoutLeader: s.GetRangesWithoutLeader(), Cells: each(s.GetCells(), cellOf), Nodes: each(s.GetNodes(), nodeOf),
		Edges: each(s.GetEdges(), edgeOf), Moves: each(s.GetMoves(), moveOf), Problems: list(s.GetProblems()), Canary: canaryOf(s.GetCanary()),
	}
}

func sessionOf(s *controlpb.UserSession) sessionJSON {
	return sessionJSON{s.GetDevice(), s.GetEdge(), s.GetTransport(), jsonTime(s.GetSinceMs())}
}

func deviceOf(d *controlpb.UserDevice) deviceJSON {
	return deviceJSON{d.GetDevice(), d.GetPlatform(), jsonTime(d.GetLoginMs()), decimal(d.GetConfirmedPts()), d.GetEnded()}
}

func whereOf(u *controlpb.ShowUserReply) whereJSON {
	return whereJSON{decimal(u.GetUser()), u.GetName(), decimal(u.GetRange()), decimal(u.GetStart()), decimal(u.GetEnd()),
		u.GetCell(), u.GetEpoch(), u.GetHost(), each(u.GetSessions(), sessionOf)}
}

func userOf(u *controlpb.ShowUserReply) userJSON {
	return userJSON{decimal(u.GetUser()), u.GetName(), u.GetEmail(), u.GetState(), decimal(u.GetRange()), u.GetCell(), each(u.GetDevices(), deviceOf)}
}

// ------------------------------------------------------------------- tables

func cellColumns() []column[cellJSON] {
	return []column[cellJSON]{
		{"CELL", false, func(c cellJSON) string { return c.Cell }},
		{"STATE", false, func(c cellJSON) string { return c.State }},
		{"NODES", false, func(c cellJSON) string { return decimal(c.Nodes) }},
		{"RANGES", false, func(c cellJSON) string { return decimal(c.Ranges) }},
		{"USERS", false, func(c cellJSON) string { return decimal(c.Users) }},
		{"HEADROOM", false, func(c cellJSON) string { return percent(c.Headroom) }},
	}
}

func nodeColumns() []column[nodeJSON] {
	return []column[nodeJSON]{
		{"NODE", false, func(n nodeJSON) string { return n.Node }},
		{"CELL", false, func(n nodeJSON) string { return n.Cell }},
		{"ROLES", false, func(n nodeJSON) string { return strings.Join(n.Roles, ",") }},
		{"STATE", false, func(n nodeJSON) string { return n.State }},
		{"ADDR", true, func(n nodeJSON) string { return n.Addr }},
		{"ADMIN", true, func(n nodeJSON) string { return n.Admin }},
		{"PID", true, func(n nodeJSON) string { return strconv.FormatInt(n.Pid, 10) }},
		{"RANGES", false, func(n nodeJSON) string { return decimal(n.Ranges) }},
		{"LEADERS", false, func(n nodeJSON) string { return decimal(n.Leaders) }},
		{"SESSIONS", false, func(n nodeJSON) string { return decimal(n.Sessions) }},
		{"LOAD", false, func(n nodeJSON) string { return percent(n.Load) }},
	}
}

func edgeColumns() []column[edgeJSON] {
	return []column[edgeJSON]{
		{"EDGE", false, func(e edgeJSON) string { return e.Edge }},
		{"TCP", false, func(e edgeJSON) string { return e.TCP }},
		{"QUIC", false, func(e edgeJSON) string { return e.QUIC }},
		{"PLAIN", true, func(e edgeJSON) string { return e.Plain }},
		{"ADMIN", true, func(e edgeJSON) string { return e.Admin }},
		{"PID", true, func(e edgeJSON) string { return strconv.FormatInt(e.Pid, 10) }},
		{"STATE", false, func(e edgeJSON) string { return e.State }},
		{"SESSIONS", false, func(e edgeJSON) string { return decimal(e.Sessions) }},
	}
}

func rangeColumns() []column[rangeJSON] {
	return []column[rangeJSON]{
		{"RANGE", false, func(r rangeJSON) string { return r.Range }},
		{"START", true, func(r rangeJSON) string { return r.Start }},
		{"END", true, func(r rangeJSON) string { return r.End }},
		{"CELL", false, func(r rangeJSON) string { return r.Cell }},
		{"EPOCH", false, func(r rangeJSON) string { return decimal(r.Epoch) }},
		{"LEADER", false, func(r rangeJSON) string { return r.Leader }},
		{"HOST", false, func(r rangeJSON) string { return r.Host }},
		{"VOTERS", false, func(r rangeJSON) string { return strings.Join(r.Voters, ",") }},
		{"LEARNERS", true, func(r rangeJSON) string { return strings.Join(r.Learners, ",") }},
		{"ENTITIES", false, func(r rangeJSON) string { return decimal(r.Entities) }},
		{"BYTES", false, func(r rangeJSON) string { return byteSize(r.Bytes) }},
		{"SESSIONS", true, func(r rangeJSON) string { return decimal(r.Sessions) }},
		{"MESSAGES/S", true, func(r rangeJSON) string { return strconv.FormatFloat(r.Messages, 'f', 1, 64) }},
		{"MOVE", false, func(r rangeJSON) string { return r.Move }},
		{"RULES", true, func(r rangeJSON) string { return decimal(uint64(r.Rules)) }},
	}
}

func sessionColumns() []column[sessionJSON] {
	return []column[sessionJSON]{
		{"DEVICE", false, func(s sessionJSON) string { return harmless(s.Device) }},
		{"EDGE", false, func(s sessionJSON) string { return s.Edge }},
		{"TRANSPORT", false, func(s sessionJSON) string { return s.Transport }},
		{"SINCE", false, func(s sessionJSON) string { return s.Since }},
	}
}

func deviceColumns() []column[deviceJSON] {
	return []column[deviceJSON]{
		{"DEVICE", false, func(d deviceJSON) string { return harmless(d.Device) }},
		{"PLATFORM", false, func(d deviceJSON) string { return harmless(d.Platform) }},
		{"LOGIN", false, func(d deviceJSON) string { return d.Login }},
		{"CONFIRMED", false, func(d deviceJSON) string { return d.ConfirmedPts }},
		{"ENDED", false, func(d deviceJSON) string { return strconv.FormatBool(d.Ended) }},
	}
}

func percent(f float64) string { return fmt.Sprintf("%.0f%%", 100*f) }

// byteSize is a size for people.
func byteSize(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if f /= 1024; f < 1024 {
			return fmt.Sprintf("%.1f %s", f, unit)
		}
	}
	return fmt.Sprintf("%.1f TiB", f/1024)
}

// codeName is a registry code's stable name, for JSON.
func codeName(code uint32) string { return proto.Code(code).String() }
