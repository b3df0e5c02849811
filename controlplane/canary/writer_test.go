package canary

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// thread is a range that stores messages, with a fault planted.
type thread struct {
	events  []*cellpb.StoredEvent
	refuse  int                    // the next so many sends
	planted func(t *thread, n int) // after n messages
}

func (t *thread) Do(_ context.Context, _ proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	if a := req.GetAppend(); a != nil {
		if t.refuse > 0 {
			t.refuse--
			if t.refuse%2 == 0 {
				return nil, proto.Errorf(proto.CodeNotHost, "moved")
			}
			return &cellpb.RelayReply{Body: &cellpb.RelayReply_Result{Result: &cellpb.Result{Code: uint32(proto.CodeStaleEpoch)}}}, nil
		}
		t.events = append(t.events, &cellpb.StoredEvent{From: a.From, ClientMsgId: a.ClientMsgId, Body: &cellpb.StoredEvent_Text{Text: a.GetText()}})
		seq := uint64(len(t.events))
		if t.planted != nil {
			t.planted(t, len(t.events))
		}
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_Result{Result: &cellpb.Result{Seq: seq}}}, nil
	}
	out := &cellpb.Events{}
	for _, ref := range req.GetReadEvents().GetRefs() {
		if ref.Seq <= uint64(len(t.events)) && t.events[ref.Seq-1] != nil {
			out.Events, out.Refs = append(out.Events, t.events[ref.Seq-1]), append(out.Refs, ref)
		}
	}
	return &cellpb.RelayReply{Body: &cellpb.RelayReply_Events{Events: out}}, nil
}

// Each fault that a move could make is found, and a move that makes none is
// not blamed.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		planted func(t *thread, n int)
		finds   string
	}{
		"nothing": {},
		"lost": {func(t *thread, n int) {
			if n == 120 {
				t.events[70] = nil
			}
		}, "message 71, which was acknowledged, is not there"},
		"another": {func(t *thread, n int) {
			if n == 120 {
				t.events[3] = t.events[4]
			}
		}, "message 4 is another"},
		"cut off, and numbers given again": {func(t *thread, n int) {
			if n == 100 {
				t.events = t.events[:90]
			}
		}, "was given the number 91 after"},
	} {
		store := &thread{planted: c.planted, refuse: 5}
		w := &writer{Canary: New(Config{Ranges: store}), r: 1, from: 4096, thread: "d/4096/4097", o: &outcome{}}
		for range 120 {
			if err := w.write(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		err := w.check(t.Context())
		if (err == nil) != (c.finds == "") || err != nil && !strings.Contains(err.Error(), c.finds) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAMessageThatIsNeverAnswered(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := &writer{Canary: New(Config{Ranges: &thread{refuse: 1 << 30}}), r: 1, o: &outcome{}}
	if err := w.write(ctx); err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "was not answered") {
		t.Errorf("%v", err)
	}
}
