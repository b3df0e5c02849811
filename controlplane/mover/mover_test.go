package mover

import (
	"errors"
	"testing"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

const (
	atHome  = "c1@1 [c1-n1 c1-n2 c1-n3] [] holds [c1-n1 c1-n2 c1-n3]"
	moved   = "c2@2 [c2-n1 c2-n2 c2-n3] [] holds [c2-n1 c2-n2 c2-n3]"
	standby = "c2@2 [c2-n1 c2-n2 c2-n3] [c1-n1 c1-n2 c1-n3] holds [c1-n1 c1-n2 c1-n3 c2-n1 c2-n2 c2-n3]"
)

func TestMoveToAnotherCell(t *testing.T) {
	w := newWorld(t)
	w.serve(w.mover())
	id := w.submit(toC2(0))
	rec := w.reaches(id, move.Done)
	w.expect(1, moved)
	route := w.client.View().Ranges[1]
	if route.Cell != "c2" || route.Epoch != 2 || len(route.Replicas) != 3 || route.Replicas[0].Id != 4 || string(route.Incarnation) != "incarnation" || !route.Created {
		t.Errorf("the route table has %v", route)
	}
	if rec.OwnedEpoch != 2 || rec.PauseUs != 7000 || rec.Wait != "" || rec.Cause != "" || rec.By != "ann" {
		t.Errorf("%v", rec)
	}
}

func TestSecondMoveOfARangeIsRefused(t *testing.T) {
	w := newWorld(t)
	id := w.submit(toC2(0))
	_, err := NewBook(w.client.Etcd()).Submit(t.Context(), toC2(0))
	if proto.CodeOf(err) != proto.CodeConflict {
		t.Fatalf("a second move: %v", err)
	}
	w.serve(w.mover())
	w.reaches(id, move.Done)
	if _, err := NewBook(w.client.Etcd()).Cancel(t.Context(), id, false); !errors.Is(err, proto.Errorf(proto.CodeConflict, "")) {
		t.Errorf("cancelled although done: %v", err)
	}
	if _, err := NewBook(w.client.Etcd()).Cancel(t.Context(), "m99", false); proto.CodeOf(err) != proto.CodeBadRequest {
		t.Errorf("cancelled what is not: %v", err)
	}
}

// While old replicas are kept a range can be moved back, with nothing to copy,
// and moved on, which removes them first.
func TestStandbyRevertAndMoveOn(t *testing.T) {
	w := newWorld(t)
	w.serve(w.mover())
	id := w.submit(toC2(time.Hour))
	w.reaches(id, move.Standby)
	w.expect(1, standby)
	if _, err := NewBook(w.client.Etcd()).Revert(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	back := w.reaches(id, move.Done).RevertedBy
	w.reaches(back, move.Standby)
	w.expect(1, "c1@3 [c1-n1 c1-n2 c1-n3] [c2-n1 c2-n2 c2-n3] holds [c1-n1 c1-n2 c1-n3 c2-n1 c2-n2 c2-n3]")
	again := toC2(0)
	again.Epoch = 3
	again.Add = again.Add[:1]
	id = w.submit(again)
	w.reaches(back, move.Done)
	w.reaches(id, move.Done)
	w.expect(1, "c2@4 [c2-n1] [] holds [c2-n1]")
}

func TestCancelReturnsTheRangeAsItWas(t *testing.T) {
	w := newWorld(t)
	w.model.slow = true
	w.serve(w.mover())
	id := w.submit(toC2(0))
	w.reaches(id, move.CatchingUp)
	if _, err := NewBook(w.client.Etcd()).Cancel(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	rec := w.reaches(id, move.Cancelled)
	w.expect(1, atHome)
	if rec.Cause == "" {
		t.Error("the record does not say why")
	}
	// The same nodes take replicas again.
	w.model.mu.Lock()
	w.model.slow = false
	w.model.mu.Unlock()
	w.reaches(w.submit(toC2(0)), move.Done)
	w.expect(1, moved)
}

// Of many who plan a move of one range at the same time, one does.
func TestOneOfManyPlansARange(t *testing.T) {
	w := newWorld(t)
	const n = 12
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := NewBook(w.client.Etcd()).Submit(t.Context(), toC2(0))
			errs <- err
		}()
	}
	planned := 0
	for range n {
		if err := <-errs; err == nil {
			planned++
		} else if code := proto.CodeOf(err); code != proto.CodeConflict && code != proto.CodeUnavailable {
			t.Error(err)
		}
	}
	if planned != 1 {
		t.Errorf("%d moves of one range were planned", planned)
	}
}

// A step is not stored over what somebody wrote meanwhile, such as a cancel.
func TestAStepDoesNotOverwriteACancel(t *testing.T) {
	w := newWorld(t)
	m := w.mover()
	id := w.submit(toC2(0))
	asked := false
	m.stored = func(rec *controlpb.MoveRecord) {
		// The mover goes on at once, before it can see the request.
		if rec.State == string(move.Seeding) && !asked {
			asked = true
			if _, err := NewBook(w.client.Etcd()).Cancel(t.Context(), id, false); err != nil {
				t.Error(err)
			}
		}
	}
	st := w.take()
	term := m.begin(st)
	defer term.wg.Wait()
	w.eventually("the move", func(v *controlclient.View) bool { return v.Moves[id] != nil })
	// A view that stands still: the request is never seen.
	term.Cluster = frozen{w.client, w.client.View()}
	for range 20 {
		term.round(t.Context())
	}
	got, err := w.client.Etcd().Get(t.Context(), controlclient.MoveKey(id))
	if err != nil {
		t.Fatal(err)
	}
	rec := &controlpb.MoveRecord{}
	if err := pb.Unmarshal(got.Kvs[0].Value, rec); err != nil || !asked || !rec.Cancel {
		t.Errorf("%v (%v)", rec, err)
	}
}

// frozen is a cluster whose view does not change.
type frozen struct {
	*controlclient.Client
	v *controlclient.View
}

func (f frozen) View() *controlclient.View { return f.v }

// A request that comes while the move goes on is judged anew.
func TestARequestIsJudgedByTheNewestState(t *testing.T) {
	w := newWorld(t)
	id := w.submit(toC2(0))
	first := true
	_, err := NewBook(w.client.Etcd()).ask(t.Context(), id, false, move.Cancel, func(rec *controlpb.MoveRecord) {
		if first {
			first = false
			joint := pb.CloneOf(rec)
			joint.State = string(move.Joint)
			w.put(controlclient.MoveKey(id), joint)
		}
		rec.Cancel = true
	})
	if proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("cancelled although joint: %v", err)
	}
}

// The route table's row is not written over one that is newer than what the
// mover knows.
func TestAnOldRouteIsNotPublished(t *testing.T) {
	w := newWorld(t)
	term := w.mover().begin(w.take())
	term.Cluster = frozen{w.client, w.client.View()}
	newer := pb.CloneOf(w.client.View().Ranges[1])
	newer.Epoch = 5
	w.put(controlclient.RangeKey(1), newer)
	s := move.Begin(toC2(0))
	publish := term.call(s, move.Effect{Kind: move.Publish, Route: move.Route{Cell: "c2", Epoch: 2}})
	if err := publish(t.Context()); err == nil {
		t.Error("published an old route")
	}
}
