package history

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// talk is a correct history with all that can be planted into: retries,
// restarts, resynchronisations, several devices.
func talk(t *testing.T) History {
	t.Helper()
	dice := rand.New(rand.NewPCG(1, 2))
	w := newWorld(3, 2, dice.IntN)
	for range 2000 {
		w.step()
	}
	h := w.finish()
	if v := Check(h); v != nil {
		t.Fatalf("a correct history is refused: %v", v[0])
	}
	return h
}

// fault is a way to break a history. It reports false where the history
// offers no place for it.
type fault struct {
	name      string
	invariant string
	plant     func(h *History, pick func(n int) int) bool
}

func faults() []fault {
	return []fault{
		{"an acknowledged message is not stored", "I1", func(h *History, pick func(int) int) bool {
			a := pickOf(h.Acked, pick)
			if a == nil {
				return false
			}
			i := slices.IndexFunc(h.Stored, func(s Stored) bool { return s.ID == a.ID })
			h.Stored = slices.Delete(h.Stored, i, i+1)
			return true
		}},
		{"an acknowledged message is stored elsewhere", "I1", func(h *History, pick func(int) int) bool {
			a := pickOf(h.Acked, pick)
			if a == nil {
				return false
			}
			a.Seq += 1000
			return true
		}},
		{"the stored text of an acknowledged message is another", "I1", func(h *History, pick func(int) int) bool {
			a := pickOf(h.Acked, pick)
			if a == nil {
				return false
			}
			i := slices.IndexFunc(h.Stored, func(s Stored) bool { return s.ID == a.ID })
			h.Stored[i].Text = HashText("never posted")
			return true
		}},
		{"a device that stayed to the end lacks an update", "I1", func(h *History, pick func(int) int) bool {
			s := pickOf(h.Settled, pick)
			if s == nil {
				return false
			}
			s.Pts++
			return true
		}},
		{"a message is stored twice under one id", "I2", func(h *History, pick func(int) int) bool {
			s := pickOf(h.Stored, pick)
			if s == nil {
				return false
			}
			h.Stored = append(h.Stored, again(h, *s))
			return true
		}},
		{"an acknowledged message is stored twice under two ids", "I2", func(h *History, pick func(int) int) bool {
			a := pickOf(h.Acked, pick)
			if a == nil {
				return false
			}
			i := slices.IndexFunc(h.Stored, func(s Stored) bool { return s.ID == a.ID })
			twin := again(h, h.Stored[i])
			twin.ID[15] ^= 0xff
			h.Stored = append(h.Stored, twin)
			return true
		}},
		{"a message is shown to a device as two updates", "I2", func(h *History, pick func(int) int) bool {
			i := slices.IndexFunc(h.Seen, func(s Seen) bool { return s.Kind == Update && s.Text != 0 })
			if i < 0 {
				return false
			}
			d := h.Seen[i].Device
			last := Seen{}
			for _, s := range h.Seen {
				if s.Device == d && s.Kind == Update {
					last = s
				}
			}
			twin := h.Seen[i]
			twin.Pts = last.Pts + 1
			h.Seen = append(h.Seen, twin)
			return twin.Thread != last.Thread || twin.Seq != last.Seq
		}},
		{"a device sees another message at a place", "I3", func(h *History, pick func(int) int) bool {
			s := pickSeen(h, pick)
			if s == nil {
				return false
			}
			s.ID[15] ^= 0xff
			return true
		}},
		{"a device sees another text at a place", "I3", func(h *History, pick func(int) int) bool {
			s := pickSeen(h, pick)
			if s == nil {
				return false
			}
			s.Text++
			return true
		}},
		{"two messages of a thread changed places after they were shown", "I3", func(h *History, pick func(int) int) bool {
			for i := range h.Stored {
				for j := range h.Stored[:i] {
					a, b := &h.Stored[i], &h.Stored[j]
					if a.Thread == b.Thread && a.Seq == b.Seq+1 {
						a.Seq, b.Seq = b.Seq, a.Seq
						return true
					}
				}
			}
			return false
		}},
		{"a thread's time goes back", "I3", func(h *History, pick func(int) int) bool {
			for i := range h.Stored {
				if h.Stored[i].Seq > 1 {
					h.Stored[i].TimeMs -= 1_000_000
					return true
				}
			}
			return false
		}},
		{"a thread has a hole", "I4", func(h *History, pick func(int) int) bool {
			s := pickOf(h.Stored, pick)
			if s == nil {
				return false
			}
			thread, seq := s.Thread, s.Seq
			for i := range h.Stored {
				if h.Stored[i].Thread == thread && h.Stored[i].Seq >= seq {
					h.Stored[i].Seq++
				}
			}
			return true
		}},
		{"an update is skipped", "I4", func(h *History, pick func(int) int) bool {
			for i := range h.Seen[:max(1, len(h.Seen))-1] {
				for j := i + 1; j < len(h.Seen); j++ {
					if h.Seen[j].Device != h.Seen[i].Device || h.Seen[j].Kind == Body {
						continue
					}
					if h.Seen[i].Kind == Update && h.Seen[j].Kind == Update {
						h.Seen = slices.Delete(h.Seen, i, i+1)
						return true
					}
					break
				}
			}
			return false
		}},
		{"a device is put forward without being told", "I4", func(h *History, pick func(int) int) bool {
			begun := map[Device]bool{}
			for i := range h.Seen {
				s := &h.Seen[i]
				if s.Kind == Placed && begun[s.Device] {
					s.Pts += 100
					return true
				}
				begun[s.Device] = true
			}
			return false
		}},
		{"a device's own sends changed places", "I5", func(h *History, pick func(int) int) bool {
			last := map[Device]*Posted{}
			stored := map[TextHash]bool{}
			for _, s := range h.Stored {
				stored[s.Text] = true
			}
			for i := range h.Posted {
				p := &h.Posted[i]
				if !stored[p.Text] {
					continue
				}
				before := last[p.Device]
				last[p.Device] = p
				if before != nil && before.Thread == p.Thread && before.Run == p.Run {
					*p, *before = *before, *p
					return true
				}
			}
			return false
		}},
		{"an acknowledged send is overtaken by the program's next run", "I5", func(h *History, pick func(int) int) bool {
			seqs := map[TextHash]proto.Seq{}
			for _, s := range h.Stored {
				seqs[s.Text] = s.Seq
			}
			acked := map[uint64]bool{}
			for _, a := range h.Acked {
				acked[a.Number] = true
			}
			for i := range h.Posted {
				for j := range h.Posted[:i] {
					a, b := &h.Posted[j], &h.Posted[i]
					if a.Device == b.Device && a.Thread == b.Thread && a.Run != b.Run && acked[a.Number] && acked[b.Number] {
						a.Run, b.Run = b.Run, a.Run
						*a, *b = *b, *a
						return seqs[a.Text] > seqs[b.Text]
					}
				}
			}
			return false
		}},
		{"a device is given an update again on one connection", "I6", func(h *History, pick func(int) int) bool {
			s := pickSeen(h, pick)
			if s == nil {
				return false
			}
			i := slices.Index(h.Seen, *s)
			h.Seen = slices.Insert(h.Seen, i, *s)
			return true
		}},
		{"two cells own one epoch", "I7", func(h *History, pick func(int) int) bool {
			pickOf(h.Owners, pick).Cell = "c9"
			return true
		}},
		{"an epoch goes back", "I7", func(h *History, pick func(int) int) bool {
			first := h.Owners[0]
			h.Owners = append(h.Owners, first)
			return true
		}},
		{"a device sees what is not stored", "I9", func(h *History, pick func(int) int) bool {
			s := pickSeen(h, pick)
			if s == nil {
				return false
			}
			s.Seq += 1000
			return true
		}},
		{"replicas differ at one index", "I10", func(h *History, pick func(int) int) bool {
			pickOf(h.Hashes, pick).Hash++
			return true
		}},
		{"an unacknowledged message is stored twice", "I11", func(h *History, pick func(int) int) bool {
			acked := map[proto.ClientMsgID]bool{}
			for _, a := range h.Acked {
				acked[a.ID] = true
			}
			for _, s := range h.Stored {
				if !acked[s.ID] {
					twin := again(h, s)
					twin.ID[15] ^= 0xff
					h.Stored = append(h.Stored, twin)
					return true
				}
			}
			return false
		}},
		{"a message that nobody posted is stored", "I11", func(h *History, pick func(int) int) bool {
			s := pickOf(h.Stored, pick)
			if s == nil {
				return false
			}
			ghost := again(h, *s)
			ghost.ID[15] ^= 0xff
			ghost.Text = HashText("nobody")
			h.Stored = append(h.Stored, ghost)
			return true
		}},
		{"an acknowledgement of nothing", "history", func(h *History, pick func(int) int) bool {
			h.Acked = append(h.Acked, Acked{Number: 1 << 40})
			return true
		}},
		{"two posts with one text", "history", func(h *History, pick func(int) int) bool {
			p := pickOf(h.Posted, pick)
			if p == nil {
				return false
			}
			twin := *p
			twin.Number = 1 << 40
			h.Posted = append(h.Posted, twin)
			return true
		}},
	}
}

func pickOf[T any](list []T, pick func(int) int) *T {
	if len(list) == 0 {
		return nil
	}
	return &list[pick(len(list))]
}

// pickSeen picks an update that was shown with its text.
func pickSeen(h *History, pick func(int) int) *Seen {
	var updates []int
	for i, s := range h.Seen {
		if s.Kind == Update && s.Text != 0 {
			updates = append(updates, i)
		}
	}
	if len(updates) == 0 {
		return nil
	}
	return &h.Seen[updates[pick(len(updates))]]
}

// again is s stored once more, as the next of its thread.
func again(h *History, s Stored) Stored {
	for _, o := range h.Stored {
		if o.Thread == s.Thread {
			s.Seq, s.TimeMs = max(s.Seq, o.Seq), max(s.TimeMs, o.TimeMs)
		}
	}
	s.Seq++
	return s
}

func TestCheckNamesEachPlantedFault(t *testing.T) {
	for _, f := range faults() {
		t.Run(f.invariant+" "+f.name, func(t *testing.T) {
			h := talk(t)
			dice := rand.New(rand.NewPCG(3, 4))
			if !f.plant(&h, dice.IntN) {
				t.Fatal("the history has no place for this fault")
			}
			violations := Check(h)
			for _, v := range violations {
				if v.Invariant == f.invariant {
					return
				}
			}
			t.Errorf("want %s named, have %v", f.invariant, violations)
		})
	}
}

func TestCheckOfRandomHistories(t *testing.T) {
	all := faults()
	rapid.Check(t, func(t *rapid.T) {
		dice := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "die") }
		w := newWorld(dice(3)+2, dice(2)+1, dice)
		for range rapid.IntRange(0, 150).Draw(t, "steps") {
			w.step()
		}
		h := w.finish()
		if v := Check(h); v != nil {
			t.Fatalf("a correct history is refused: %v", v)
		}
		f := all[dice(len(all))]
		if f.plant(&h, dice) && Check(h) == nil {
			t.Fatalf("%s: accepted", f.name)
		}
	})
}

func TestViolationNamesThreadAndMessage(t *testing.T) {
	h := talk(t)
	h.Stored = h.Stored[1:]
	if len(Check(h)) == 0 {
		t.Fatal("accepted")
	}
	for _, v := range Check(h) {
		if v.Invariant == "I4" && strings.Contains(v.String(), v.Thread) && v.Thread != "" && v.Message != "" {
			return
		}
	}
	t.Errorf("no violation of I4 names thread and message: %v", Check(h))
}

func TestCheckReportsAreBounded(t *testing.T) {
	h := talk(t)
	for range 10 {
		h.Stored = append(h.Stored, h.Stored...)
	}
	if n := len(Check(h)); n != ViolationsMax {
		t.Errorf("%d violations reported, want %d", n, ViolationsMax)
	}
}

func TestLinesRoundTrip(t *testing.T) {
	h := talk(t)
	h.Failed = append(h.Failed, Failed{Number: h.Posted[0].Number, Error: "closed \"early\"\n"})
	h.Seen = append(h.Seen, Seen{Device: Device{User: 7, Name: "x"}, Kind: Resynced, Pts: 3, Incarnation: "\x00\xff"})
	var buf bytes.Buffer
	if err := Write(&buf, h); err != nil {
		t.Fatal(err)
	}
	back, err := Read(bytes.NewReader(buf.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(h, back) {
		t.Error("what was read is not what was written")
	}
}

func TestReadNamesTheBadRecord(t *testing.T) {
	good := `{"kind":"settled","user":7,"device":"d","pts":3}` + "\n"
	for _, bad := range []string{
		`{"kind":"unknown"}`, `{"kind":"ack","id":"zz"}`, `{"kind":"post","text":"zz"}`, `{"kind":"hash","hash":"-"}`,
		`{"kind":"resync","incarnation":"0"}`, `{"kind":"ack","nonsense":1}`, `{"kind":`, `[]`,
	} {
		if _, err := Read(strings.NewReader(good + bad)); err == nil || !strings.Contains(err.Error(), "record 2") {
			t.Errorf("%s: error %v does not name record 2", bad, err)
		}
	}
}

func TestMergeKeepsRunsAndNumbersApart(t *testing.T) {
	one, two := NewRecorder(), NewRecorder()
	event := func(seq uint64, text string, id proto.ClientMsgID) *clientpb.Event {
		return &clientpb.Event{Thread: "d/1/2", Seq: seq, From: 1, TimeMs: 5, ClientMsgId: id[:],
			Body: &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: text}}}
	}
	a, b := proto.NewClientMsgID(time.Now()), proto.NewClientMsgID(time.Now())
	// The later program's message is stored before the earlier one's, which
	// was never acknowledged: allowed, since its outbox was lost.
	one.Device(1, "d").Posted("d/1/2", "first")
	two.Device(1, "d").Posted("d/1/2", "second").Acked(1, time.UnixMilli(5), b)
	two.Stored(event(1, "second", b), event(2, "first", a))
	if v := Check(Merge(one.History(), two.History())); v != nil {
		t.Error(v)
	}
	// Acknowledged, it may not be overtaken.
	one = NewRecorder()
	one.Device(1, "d").Posted("d/1/2", "first").Acked(2, time.UnixMilli(5), a)
	if v := Check(Merge(one.History(), two.History())); len(v) != 1 || v[0].Invariant != "I5" {
		t.Errorf("want I5, have %v", v)
	}
}

func TestRecorderIsForConcurrentUse(t *testing.T) {
	r := NewRecorder()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			d := r.Device(proto.EntityID(i+1), "d")
			for range 100 {
				d.Received(1, &clientpb.Event{Thread: "d/1/2", Seq: 1})
				_ = r.History()
			}
		})
	}
	wg.Wait()
	if n := len(r.History().Seen); n != 800 {
		t.Errorf("%d records, want 800", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	dice := rand.New(rand.NewPCG(1, 2))
	w := newWorld(3, 2, dice.IntN)
	for range 20_000 {
		w.step()
	}
	h := w.finish()
	b.ReportMetric(float64(len(h.Posted)), "posts")
	for b.Loop() {
		if Check(h) != nil {
			b.Fatal("refused")
		}
	}
}
