package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

func golden(t *testing.T, v any, want string) {
	t.Helper()
	var out bytes.Buffer
	if err := printLine(&out, v); err != nil {
		t.Fatal(err)
	}
	if out.String() != want+"\n" {
		t.Errorf("got  %swant %s", out.String(), want)
	}
}

// Scripts rely on these, key by key.
func TestOperatorJSON(t *testing.T) {
	golden(t, cellOf(&controlpb.CellStatus{Cell: "c1", State: "active", Nodes: 3, Ranges: 8, Users: 17, Headroom: 0.5}),
		`{"cell":"c1","state":"active","nodes":3,"ranges":8,"users":17,"headroom":0.5}`)
	golden(t, nodeOf(&controlpb.NodeStatus{Node: "c1-n1", Cell: "c1", Addr: "a:1", Admin: "a:2", Pid: 7, State: "alive", Ranges: 8, Leaders: 4, Sessions: 2, Load: 0.25}),
		`{"node":"c1-n1","cell":"c1","roles":[],"addr":"a:1","admin":"a:2","pid":7,"state":"alive","ranges":8,"leaders":4,"sessions":2,"load":0.25}`)
	golden(t, edgeOf(&controlpb.EdgeStatus{Edge: "e1", Tcp: "a:1", Quic: "a:1", Admin: "a:2", Pid: 7, State: "alive", Sessions: 2, Plain: "a:3"}),
		`{"edge":"e1","tcp":"a:1","quic":"a:1","admin":"a:2","pid":7,"state":"alive","sessions":2,"plain":"a:3"}`)
	golden(t, rangeOf(&controlpb.RangeStatus{Range: 1 << 51, Start: 1 << 63, End: 1<<63 + 4095, Cell: "c1", Epoch: 2, Leader: "c1-n1", Host: "c1-n2",
		Voters: []string{"c1-n1"}, Entities: 9, Bytes: 4096, Rules: 2, Sessions: 3, MessagesPerS: 1.5}),
		`{"range":"2251799813685248","start":"9223372036854775808","end":"9223372036854779903","cell":"c1","epoch":2,"leader":"c1-n1","host":"c1-n2","voters":["c1-n1"],"learners":[],"entities":9,"bytes":4096,"move":"","rules":2,"sessions":3,"messages_per_s":1.5}`)
	golden(t, whereOf(&controlpb.ShowUserReply{User: 4242, Name: "ann", Range: 1, Start: 4096, End: 8191, Cell: "c1", Epoch: 1, Host: "c1-n1",
		Sessions: []*controlpb.UserSession{{Device: "d", Edge: "e1", Transport: "quic", SinceMs: 1_700_000_000_001}}}),
		`{"user":"4242","name":"ann","range":"1","start":"4096","end":"8191","cell":"c1","epoch":1,"host":"c1-n1","sessions":[{"device":"d","edge":"e1","transport":"quic","since":"2023-11-14T22:13:20.001Z"}]}`)
	golden(t, statusFrom(&controlpb.StatusReply{Mode: "embedded", Cluster: "dev", Version: "v", Ranges: 16}),
		`{"mode":"embedded","cluster":"dev","version":"v","ranges":16,"ranges_without_leader":0,"cells":[],"nodes":[],"edges":[],"moves":[],"problems":[]}`)
	golden(t, accountOf(&controlpb.AddAccountReply{User: 17, Name: "ann", Token: "t", RefreshToken: "r", Device: "d"}),
		`{"user":"17","name":"ann","token":"t","refresh_token":"r","device":"d"}`)
	golden(t, accountOf(&controlpb.AddAccountReply{Name: "ann", Code: uint32(proto.CodeNameTaken), Message: "taken"}),
		`{"name":"ann","error":"taken","code":"name_taken"}`)
}

func event() *clientpb.Event {
	id := proto.NewClientMsgID(time.UnixMilli(1_700_000_000_000))
	copy(id[6:], []byte{0x70, 1, 0x80, 2, 3, 4, 5, 6, 7, 8})
	return &clientpb.Event{Thread: "d/17/4242", Seq: 3, From: 17, FromName: "ann", TimeMs: 1_700_000_000_001, ClientMsgId: id[:],
		Body: &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: "<hello>"}}}
}

func TestPeopleJSON(t *testing.T) {
	const rest = `"kind":"message","thread":"d/17/4242","seq":"3","from":"17","from_name":"ann","client_msg_id":"018bcfe5-6800-7001-8002-030405060708","time":"2023-11-14T22:13:20.001Z"`
	golden(t, lineOf(12, event()), `{"pts":"12",`+rest+`,"text":"<hello>"}`)
	golden(t, lineOf(0, event()), `{`+rest+`,"text":"<hello>"}`)
	missing := event()
	missing.Body, missing.BodyMissing = nil, true
	golden(t, lineOf(12, missing), `{"pts":"12",`+rest+`,"body_missing":true}`)
	empty := event()
	empty.GetText().Text = ""
	golden(t, lineOf(0, empty), `{`+rest+`,"text":""}`)

	id, err := proto.ClientMsgIDFromBytes(event().ClientMsgId)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printSent(&out, client.Sent{Thread: "d/17/4242", Seq: 3, ClientMsgID: id, Time: time.UnixMilli(1_700_000_000_001)}, true); err != nil {
		t.Fatal(err)
	}
	want := `{"thread":"d/17/4242","seq":"3","client_msg_id":"018bcfe5-6800-7001-8002-030405060708","time":"2023-11-14T22:13:20.001Z"}` + "\n"
	if out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
}

// What others write cannot command the terminal.
func TestTextIsHarmless(t *testing.T) {
	e := event()
	e.FromName, e.GetText().Text = "ann\x1b", "a\x1b[2Jb\u009b31m\nwaggle: all is well"
	var out bytes.Buffer
	if err := lineOf(1, e).print(&out, false); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); strings.ContainsAny(s, "\x1b\u009b") || !strings.Contains(s, "\n    waggle: all is well") {
		t.Errorf("%q", s)
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	rows := []cellJSON{{Cell: "c1", State: "active", Users: 3}, {Cell: "c10"}}
	if err := printTable(&out, rows, false, cellColumns()); err != nil {
		t.Fatal(err)
	}
	want := "CELL  STATE   NODES  RANGES  USERS  HEADROOM\n" +
		"c1    active  0      0       3      0%\n" +
		"c10   -       0      0       0      0%\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestStatusOf(t *testing.T) {
	for want, errs := range map[int][]error{
		statusDone:     {nil},
		statusFailed:   {io.EOF, proto.Errorf(proto.CodeUnknownUser, "no")},
		statusUsage:    {usagef("no")},
		statusRefused:  {refused(io.EOF), proto.Errorf(proto.CodeNameTaken, "taken")},
		statusTimedOut: {timedOut(io.EOF), errors.Join(io.EOF, timedOut(io.EOF))},
	} {
		for _, err := range errs {
			if got := statusOf(err); got != want {
				t.Errorf("%v: status %d, want %d", err, got, want)
			}
		}
	}
	if got := oneLine("a\n\n  b\tc\n"); got != "a; b\tc" {
		t.Errorf("%q", got)
	}
}
