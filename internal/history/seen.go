package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/waggle-im/waggle/proto"
)

// ref names a row of a thread.
type ref struct {
	thread string
	seq    proto.Seq
}

func compareRefs(a, b ref) int {
	return cmp.Or(cmp.Compare(a.thread, b.thread), cmp.Compare(a.seq, b.seq))
}

// userLog is one life of a user's update log, put together from what all of
// his devices were told.
type userLog struct {
	rows map[proto.Pts]ref
	pts  map[ref]proto.Pts
}

type logKey struct {
	user        proto.EntityID
	incarnation string
}

// reader is where a device is.
type reader struct {
	incarnation string
	pts         proto.Pts
	begun       bool
	fromFirst   bool // it has been told every update there is, so far
	newest      map[string]proto.Seq
	lacking     map[ref]bool // updates whose body has not come
}

// checkSeen follows every device through what it was told.
func (c *checker) checkSeen() {
	logs := map[logKey]*userLog{}
	readers := map[Device]*reader{}
	texts := map[ref]TextHash{}
	for i := range c.h.Seen {
		s := &c.h.Seen[i]
		r := readers[s.Device]
		if r == nil {
			r = &reader{fromFirst: true, newest: map[string]proto.Seq{}, lacking: map[ref]bool{}}
			readers[s.Device] = r
		}
		switch s.Kind {
		case Placed, Resynced:
			c.placed(r, s)
			continue
		case Update:
			key := logKey{s.Device.User, r.incarnation}
			if logs[key] == nil {
				logs[key] = &userLog{rows: map[proto.Pts]ref{}, pts: map[ref]proto.Pts{}}
			}
			c.update(r, logs[key], s)
		}
		if s.Thread != "" {
			c.content(r, texts, s)
		}
	}
	c.checkSettled(logs, readers)
}

// placed moves a reader. Without being told to resynchronise it may be put
// back (it will see again what it saw), never forward.
func (c *checker) placed(r *reader, s *Seen) {
	switch {
	case s.Kind == Resynced:
		r.fromFirst = r.fromFirst && s.Pts == 0
	case !r.begun:
		r.fromFirst = s.Pts == 0
	case s.Incarnation != r.incarnation:
		c.violate(Violation{"I4", "", "", fmt.Sprintf("%s was put on another life of the log without being told to resynchronise", s.Device)})
	case s.Pts > r.pts:
		c.violate(Violation{"I4", "", "", fmt.Sprintf("%s had updates up to %d and was placed at %d", s.Device, r.pts, s.Pts)})
	}
	if s.Incarnation != r.incarnation || s.Pts < r.pts {
		clear(r.newest) // what follows may repeat what was read
	}
	r.incarnation, r.pts, r.begun = s.Incarnation, s.Pts, true
}

// update takes the next update of a reader's log.
func (c *checker) update(r *reader, log *userLog, s *Seen) {
	what := ref{s.Thread, s.Seq}
	name := place(s.Thread, s.Seq)
	if s.Pts != r.pts+1 {
		invariant := "I4"
		if s.Pts <= r.pts {
			invariant = "I6"
		}
		c.violate(Violation{invariant, s.Thread, name, fmt.Sprintf("%s was given update %d after %d", s.Device, s.Pts, r.pts)})
	}
	r.pts, r.begun = s.Pts, true
	if have, ok := log.rows[s.Pts]; ok && have != what {
		c.violate(Violation{"I3", s.Thread, name, fmt.Sprintf("update %d of user %s is %s here and %s elsewhere",
			s.Pts, s.Device.User, name, place(have.thread, have.seq))})
	} else if s.Thread == "" {
		log.rows[s.Pts] = what
		return
	} else if at, ok := log.pts[what]; ok && at != s.Pts {
		c.violate(Violation{"I2", s.Thread, name, fmt.Sprintf("shown to %s as update %d and as update %d", s.Device, at, s.Pts)})
	}
	log.rows[s.Pts], log.pts[what] = what, s.Pts
	if s.Seq <= r.newest[s.Thread] {
		c.violate(Violation{"I6", s.Thread, name, fmt.Sprintf("%s had already seen seq %d", s.Device, r.newest[s.Thread])})
	}
	r.newest[s.Thread] = max(r.newest[s.Thread], s.Seq)
}

// content compares what was shown with what is stored.
func (c *checker) content(r *reader, texts map[ref]TextHash, s *Seen) {
	what := ref{s.Thread, s.Seq}
	name := place(s.Thread, s.Seq)
	if s.Text == 0 {
		r.lacking[what] = true
		return
	}
	delete(r.lacking, what)
	row := c.threads[s.Thread].row(s.Seq)
	switch {
	case row == nil:
		c.violate(Violation{"I9", s.Thread, name, fmt.Sprintf("shown to %s, but nothing is stored there", s.Device)})
	case row.ID != s.ID || row.Text != s.Text:
		c.violate(Violation{"I3", s.Thread, name, fmt.Sprintf("shown to %s as message %s, stored as %s or with another text", s.Device, s.ID, row.ID)})
	}
	if have, ok := texts[what]; ok && have != s.Text {
		c.violate(Violation{"I3", s.Thread, name, fmt.Sprintf("%s was shown another text than other devices", s.Device)})
	}
	texts[what] = s.Text
}

// checkSettled: who stayed to the end has everything.
func (c *checker) checkSettled(logs map[logKey]*userLog, readers map[Device]*reader) {
	ofUser := map[proto.EntityID][]string{}
	for _, name := range c.names {
		t := c.threads[name]
		if t.id.Direct() {
			ofUser[t.id.Low] = append(ofUser[t.id.Low], name)
			ofUser[t.id.High] = append(ofUser[t.id.High], name)
		}
	}
	judged := map[logKey]bool{}
	for _, s := range c.h.Settled {
		r := readers[s.Device]
		if r == nil {
			r = &reader{fromFirst: true}
		}
		if r.pts != s.Pts {
			c.violate(Violation{"I1", "", "", fmt.Sprintf("%s has updates up to %d, the server up to %d", s.Device, r.pts, s.Pts)})
			continue
		}
		for _, what := range slices.SortedFunc(maps.Keys(r.lacking), compareRefs) {
			c.violate(Violation{"I1", what.thread, place(what.thread, what.seq), fmt.Sprintf("%s was never given its text", s.Device)})
		}
		key := logKey{s.Device.User, r.incarnation}
		if !r.fromFirst || judged[key] {
			continue
		}
		// Devices that read the same log to the same end need no second look.
		judged[key] = true
		for _, name := range ofUser[s.Device.User] {
			for _, row := range c.threads[name].rows {
				if log := logs[key]; log == nil || log.pts[ref{name, row.Seq}] == 0 {
					c.violate(Violation{"I1", name, row.ID.String(), fmt.Sprintf("stored as %s, but %s was never told", place(name, row.Seq), s.Device)})
				}
			}
		}
	}
}

// String names user and device.
func (d Device) String() string { return fmt.Sprintf("device %s of user %s", d.Name, d.User) }
