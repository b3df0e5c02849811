package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Two processes' latencies are what one process would have had.
func TestMergeTallies(t *testing.T) {
	whole, merged := newTally(), newTally()
	parts := []*tally{newTally(), newTally()}
	for i := range 10_000 {
		at, latency := time.Duration(i)*time.Millisecond/2, time.Duration(1+i*i%7919)*100*time.Microsecond
		measured := i >= 2000
		whole.add(at, latency, measured)
		if i < 6000 || i%2 == 0 { // the second has no more from then on
			parts[i%2].add(at, latency, measured)
		} else {
			parts[0].add(at, latency, measured)
		}
	}
	for _, part := range parts {
		r, err := part.report()
		if err != nil {
			t.Fatal(err)
		}
		if err := merged.merge(r); err != nil {
			t.Fatal(err)
		}
	}
	if merged.count() != 8000 || !reflect.DeepEqual(merged.quantiles(), whole.quantiles()) {
		t.Errorf("%d, %+v; want %d, %+v", merged.count(), merged.quantiles(), whole.count(), whole.quantiles())
	}
	for _, percent := range []float64{50, 99} {
		if a, b := merged.overTime(percent), whole.overTime(percent); len(a) != 5 || !reflect.DeepEqual(a, b) {
			t.Errorf("over time %v, want %v", a, b)
		}
	}
	if merged.merge(tallyReport{All: []byte("none")}) == nil {
		t.Error("what is no histogram is merged")
	}
}

// Refusals count by kind, while it is measured, over all processes.
func TestRefusalsByKind(t *testing.T) {
	cfg := &RunConfig{Duration: time.Hour, WarmUp: time.Second}
	whole := newLoad(cfg, nil, plan{}, nil)
	for range 2 {
		part := newLoad(cfg, nil, plan{}, nil)
		part.start = time.Now()
		part.countRefusal(proto.Errorf(proto.CodeNotReady, "while warming up"))
		part.start = part.start.Add(-2 * time.Second)
		part.countRefusal(proto.Errorf(proto.CodeOverloaded, "later"))
		part.countRefusal(proto.Errorf(proto.CodeAfterUnknown, "not yet"))
		part.countRefusal(proto.Errorf(proto.CodeOverloaded, "later"))
		r, err := part.report(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := whole.merge(r); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := whole.refusalCounts(), map[string]int{"overloaded": 4, "after_unknown": 2}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestMergeMeters(t *testing.T) {
	m := newMeter(0, time.Second, 50*time.Millisecond)
	for i := range 2 {
		part := newMeter(0, time.Second, 50*time.Millisecond)
		part.sent(0, time.Millisecond)
		part.sent(2*time.Second, time.Millisecond) // not in the step
		part.acked(0, time.Duration(40+20*i)*time.Millisecond, time.Duration(10+20*i)*time.Millisecond)
		part.refused(proto.Errorf(proto.CodeOverloaded, "later"))
		r, err := part.report()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.merge(r); err != nil {
			t.Fatal(err)
		}
	}
	s := m.step("growing", 2, usage{}, usage{})
	if s.Due != 2 || s.InBar != 1 || s.Late != 1 || s.Unanswered != 0 || s.Refusals[proto.CodeOverloaded.String()] != 2 || s.AckMs.Max < 59 || s.AcceptedMs.P50 > 11 || s.AcceptedMs.Max < 29 || s.LagMs.P50 < 0.9 {
		t.Errorf("%+v, %+v", s, s.AckMs)
	}
}

// The processes together send what one would send, each message once.
func TestShares(t *testing.T) {
	if all := (share{}); all.number(17) != 17 || all.part(500) != 500 {
		t.Errorf("alone: %d, %d", all.number(17), all.part(500))
	}
	numbers, window := map[int64]bool{}, 0
	for i := range 3 {
		s := share{i, 3}
		window += s.part(500)
		for n := range int64(100) {
			numbers[s.number(n)] = true
		}
	}
	if len(numbers) != 300 || !numbers[0] || !numbers[299] || window != 500 {
		t.Errorf("%d numbers, a window of %d", len(numbers), window)
	}
}

// splitHistory is a message from one process's person to another's, in the
// histories that the two processes wrote.
func splitHistory(t *testing.T, stored, received bool) history.History {
	t.Helper()
	const sender, receiver = proto.EntityID(4097), proto.EntityID(8193)
	thread := proto.DirectThread(sender, receiver).String()
	a, b := history.NewRecorder(), history.NewRecorder()
	from, to := a.Device(sender, "a"), b.Device(receiver, "b")
	when := time.UnixMilli(1_700_000_000_000)
	for i := range 3 {
		text, id := fmt.Sprintf("%d 0 text", i), uuid.UUID{15: byte(i + 1)}
		e := &clientpb.Event{
			Thread: thread, Seq: uint64(i + 1), From: uint64(sender), TimeMs: when.UnixMilli(), ClientMsgId: id[:],
			Body: &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: text}},
		}
		from.Posted(thread, text).Acked(proto.Seq(e.Seq), when, proto.ClientMsgID(id))
		from.Received(proto.Pts(e.Seq), e)
		if i < 2 || received {
			to.Received(proto.Pts(e.Seq), e)
		}
		if i < 2 || stored {
			a.Stored(e)
		}
	}
	from.Settled(3)
	to.Settled(3)
	dir := t.TempDir()
	var parts []history.History
	for i, r := range []*history.Recorder{a, b} {
		path := memberHistory(dir, i)
		if err := writeHistoryFile(path, r.History()); err != nil {
			t.Fatal(err)
		}
		part, err := readHistory(path)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
	}
	return history.Merge(parts...)
}

// A message that is lost between two processes' people is found.
func TestMergedHistories(t *testing.T) {
	for _, c := range []struct {
		name             string
		stored, received bool
		lost             bool
	}{
		{"all is well", true, true, false},
		{"not stored", false, true, true},
		{"not received", true, false, true},
		{"neither", false, false, true},
	} {
		r := &Result{Errors: map[string]int{}}
		found := history.Check(splitHistory(t, c.stored, c.received))
		r.count(found)
		if (r.Lost > 0) != c.lost || (r.Faults() != nil) != c.lost {
			t.Errorf("%s: %d lost, %v: %v", c.name, r.Lost, r.Faults(), found)
		}
	}
}

// The pipe to a process that has ended breaks before anybody knows why it ended.
func TestDeadMemberIsNamed(t *testing.T) {
	w := &crew{procs: 2}
	w.ctx, w.cancel = context.WithCancelCause(t.Context())
	lineR, lineW := io.Pipe()
	reportR, reportW := io.Pipe()
	m := &crewMember{&holding{in: lineW, out: json.NewDecoder(reportR), wait: func() error { return errors.New("exit status 7") }}, make(chan crewReport, 1)}
	w.members = append(w.members, m)
	w.wg.Go(func() { w.listen(0, m) })
	_ = lineR.CloseWithError(syscall.EPIPE)
	time.AfterFunc(50*time.Millisecond, func() { _ = reportW.Close() })
	err := w.tell(crewCommand{Do: crewEnd})
	if err == nil || !strings.Contains(err.Error(), "client process 1 of 2: ended early") || !strings.Contains(err.Error(), "exit status 7") {
		t.Error(err)
	}
	w.close()
}

// checkDeadMember runs loads whose client processes end early.
func checkDeadMember(t *testing.T, common Common) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("needs a shell")
	}
	for name, script := range map[string]string{
		"at once":   "exit 7",
		"connected": "read order; echo '{}'; read go; exit 7",
		// The other one waits for ever, and must not be left.
		"one of them": "read order; case $order in *'\"index\":0,'*) exit 7;; esac; echo '{}'; exec sleep 1000",
	} {
		path := filepath.Join(t.TempDir(), "member")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		cfg := RunConfig{Common: common, Pairs: 2, Rate: 10, SizeBytes: 200, Duration: time.Hour, Placement: SameCell, Procs: 2, Executable: path}
		_, err := Run(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), "of 2: ended early") || !strings.Contains(err.Error(), "exit status 7") {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(cfg.Out, "*.tmp")); len(left) > 0 {
			t.Errorf("%s: %v is left behind", name, left)
		}
	}
}
