package router

import (
	"fmt"
	"slices"
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// fakeClient writes down what it is told.
type fakeClient struct{ told []string }

func (c *fakeClient) Attach() *cellpb.AttachSession { return nil }

func (c *fakeClient) Attached(*cellpb.Attached) { c.told = append(c.told, "attached") }

func (c *fakeClient) Ended(err *proto.Error) { c.told = append(c.told, "ended") }

func (c *fakeClient) Deliver(frames []*cellpb.HostFrame) {
	line := "frames"
	for _, f := range frames {
		if p := f.GetPush(); p != nil {
			line += fmt.Sprintf(" p%d", p.FirstPts)
		} else {
			line += " " + string(f.GetResponse())
		}
	}
	c.told = append(c.told, line)
}

func push(pts uint64, sessions ...uint64) *cellpb.HostFrame {
	return &cellpb.HostFrame{Sessions: sessions, Body: &cellpb.HostFrame_Push{Push: &cellpb.Push{FirstPts: pts, LastPts: pts}}}
}

func response(text string, session uint64) *cellpb.HostFrame {
	return &cellpb.HostFrame{Sessions: []uint64{session}, Body: &cellpb.HostFrame_Response{Response: []byte(text)}}
}

func end(session uint64) *cellpb.HostFrame {
	return &cellpb.HostFrame{Sessions: []uint64{session}, Body: &cellpb.HostFrame_End{End: &cellpb.EndSession{}}}
}

func TestABatchIsDeliveredOnceToEachSession(t *testing.T) {
	r := &Router{links: map[uint64]*Link{}}
	s, other := &stream{r: r}, &stream{r: r}
	ann, bob, elsewhere, waits := &fakeClient{}, &fakeClient{}, &fakeClient{}, &fakeClient{}
	r.links[1] = &Link{client: ann, state: attached, stream: s}
	r.links[2] = &Link{client: bob, state: attached, stream: s}
	r.links[3] = &Link{client: elsewhere, state: attached, stream: other}
	r.links[4] = &Link{client: waits, state: attaching, stream: s, attempt: 7}
	d := newDeliveries()
	d.batch(s, []*cellpb.HostFrame{
		response("a", 1), push(1, 1, 2, 3, 4, 5), push(2, 1), response("b", 2),
		{Sessions: []uint64{4}, Body: &cellpb.HostFrame_Attached{Attached: &cellpb.Attached{Attempt: 7}}},
		push(3, 4, 1), end(2),
	})
	d.batch(s, []*cellpb.HostFrame{push(4, 1)})
	for _, c := range []struct {
		name string
		got  []string
		want []string
	}{
		{"ann", ann.told, []string{"frames a p1 p2", "frames p3", "frames p4"}},
		{"bob", bob.told, []string{"frames p1 b", "ended"}},
		{"one attached by another stream", elsewhere.told, nil},
		{"one that is attached within the batch", waits.told, []string{"attached", "frames p3"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s was told %q, want %q", c.name, c.got, c.want)
		}
	}
	for _, g := range d.groups[:cap(d.groups)] {
		for _, f := range g.frames[:cap(g.frames)] {
			if f != nil {
				t.Fatal("a frame is kept after it was delivered")
			}
		}
	}
}
