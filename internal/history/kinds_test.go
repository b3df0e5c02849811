package history

import (
	"bytes"
	"testing"

	"github.com/waggle-im/waggle/proto"
)

// Updates that are no events take their place in the log like all others, and
// nothing else is asked of them.
func TestUpdatesWithoutEvent(t *testing.T) {
	for _, c := range []struct {
		name string
		pts  []proto.Pts
		want string
	}{
		{"dense", []proto.Pts{1, 2, 3}, ""},
		{"one lost", []proto.Pts{1, 3}, "I4"},
		{"one twice", []proto.Pts{1, 2, 2}, "I6"},
	} {
		r := NewRecorder()
		d := r.Device(1, "phone")
		for _, pts := range c.pts {
			d.Received(pts, nil)
		}
		d.Settled(c.pts[len(c.pts)-1])
		var raw bytes.Buffer
		if err := Write(&raw, r.History()); err != nil {
			t.Fatal(err)
		}
		h, err := Read(&raw)
		if err != nil {
			t.Fatal(err)
		}
		found := Check(h)
		if got := len(found) > 0; got != (c.want != "") || got && found[0].Invariant != c.want {
			t.Errorf("%s: found %v, want %q", c.name, found, c.want)
		}
	}
}
