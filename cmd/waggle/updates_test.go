package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Scripts rely on the lines of every kind of update.
func TestUpdateLines(t *testing.T) {
	event := func(body *clientpb.Event) *clientpb.Event {
		body.Thread, body.Seq, body.From, body.FromName, body.TimeMs = "d/17/4242", 3, 17, "ann", 1000
		return body
	}
	for want, u := range map[string]client.Update{
		`{"pts":"9","kind":"read","thread":"d/17/4242","seq":"3","from":"17","time":"1970-01-01T00:00:01.000Z"}`: {
			Mark: &clientpb.Mark{Thread: "d/17/4242", Seq: 3, User: 17, Read: true, TimeMs: 1000}},
		`{"pts":"9","kind":"delivered","thread":"d/17/4242","seq":"3","from":"17","time":"1970-01-01T00:00:01.000Z"}`: {
			Mark: &clientpb.Mark{Thread: "d/17/4242", Seq: 3, User: 17, TimeMs: 1000}},
		`"kind":"message"|"location":{"latitude":52.5,"longitude":-13.25,"name":"here"}`: {
			Event: event(&clientpb.Event{Body: &clientpb.Event_Location{Location: &clientpb.Location{Latitude: 52.5, Longitude: -13.25, Name: "here"}}})},
		`"kind":"message"|"card":{"user":"99","name":"eve"}`: {
			Event: event(&clientpb.Event{Body: &clientpb.Event_Card{Card: &clientpb.SharedCard{User: 99, Name: "eve"}}})},
		`"kind":"file"|"file_id":"17-2","name":"a\u001bb.png","size":123456,"type":"image/png","blake3":"01ff"`: {
			Event: event(&clientpb.Event{Body: &clientpb.Event_File{File: &clientpb.FileMessage{
				File: "17-2", Name: "a\x1bb.png", Size: 123456, Type: "image/png", Blake3: []byte{1, 255}}}})},
	} {
		u.Pts = 9
		var out bytes.Buffer
		tail := &tailer{out: &out, json: true, failed: make(chan error, 1)}
		if !tail.print(lineOfUpdate(u)) {
			t.Fatal(<-tail.failed)
		}
		for _, part := range strings.Split(want, "|") {
			if !strings.Contains(out.String(), part) {
				t.Errorf("printed %s, want %s in it", out.String(), part)
			}
		}
	}
	var out bytes.Buffer
	tail := &tailer{out: &out, json: true, failed: make(chan error, 1)}
	tail.displaced(proto.Errorf(proto.CodeDisplaced, "logged in elsewhere"))
	if got := strings.TrimSpace(out.String()); got != `{"kind":"session_displaced","text":"logged in elsewhere"}` {
		t.Errorf("printed %s", got)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"2h ago": now.Add(-2 * time.Hour), "90m": now.Add(-90 * time.Minute), "3d ago": now.Add(-72 * time.Hour),
		"2026-01-31T08:00:00Z": time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC),
	} {
		if got, err := parseTime(in, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %s (%v), want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"yesterday", "-2h", "ago", "2", "999999999d", "2026-01-31"} {
		if got, err := parseTime(in, now); statusOf(err) != statusUsage {
			t.Errorf("%q is taken as %s (%v)", in, got, err)
		}
	}
}

func TestParsePlace(t *testing.T) {
	p, err := parsePlace("52.52, -13.405,Berlin, Mitte")
	if err != nil || p.Latitude != 52.52 || p.Longitude != -13.405 || p.Name != "Berlin, Mitte" {
		t.Errorf("%v, %v", p, err)
	}
	for _, in := range []string{"", "1", "91,0", "0,181", "NaN,0", "x,y", "0,0," + strings.Repeat("x", proto.PlaceNameBytesMax+1)} {
		if got, err := parsePlace(in); statusOf(err) != statusUsage {
			t.Errorf("%q is taken as %v (%v)", in, got, err)
		}
	}
}

// Reading forwards goes on where the page before it ended.
func TestHistoryForwards(t *testing.T) {
	const rows = 450
	page := func(q *clientpb.ReadHistory) ([]*clientpb.Event, bool, error) {
		first := q.After + 1
		if q.AtMs > 0 {
			first = uint64(q.AtMs) // a row each millisecond
		}
		var out []*clientpb.Event
		for seq := first; seq <= rows && len(out) < int(q.Limit); seq++ {
			out = append(out, &clientpb.Event{Seq: seq})
		}
		return out, first+uint64(len(out)) <= rows, nil
	}
	for _, c := range []struct {
		q     *clientpb.ReadHistory
		limit int
		want  string
	}{
		{&clientpb.ReadHistory{After: 7}, 300, "8-307 of 300"},
		{&clientpb.ReadHistory{AtMs: 100}, 1000, "100-450 of 351"},
		{&clientpb.ReadHistory{After: 449}, 5, "450-450 of 1"},
	} {
		got, err := readPart(page, c.q, c.limit)
		if err != nil || len(got) == 0 {
			t.Fatal(got, err)
		}
		if s := fmt.Sprintf("%d-%d of %d", got[0].Seq, got[len(got)-1].Seq, len(got)); s != c.want {
			t.Errorf("%v: rows %s, want %s", c.q, s, c.want)
		}
	}
}
