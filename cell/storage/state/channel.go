package state

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// channelIn is the last row counted of the channel source → here.
type channelIn struct {
	number      uint64
	incarnation string
}

func (m *Machine) channelIn(source proto.RangeID) channelIn {
	key := engine.ChannelInKey(m.rng, source)
	raw, ok := m.dirty[string(key)]
	if !ok {
		value, closer, err := m.db.Get(key)
		if err == pebble.ErrNotFound {
			return channelIn{}
		}
		if err != nil {
			m.fail(err)
			return channelIn{}
		}
		defer closer.Close()
		raw = value
	}
	if len(raw) < 8 {
		return channelIn{}
	}
	return channelIn{number: binary.BigEndian.Uint64(raw), incarnation: string(raw[8:])}
}

// takeChannelRows takes the next rows of a channel to this range. Each row
// taken is counted, with or without an effect here; one that was counted
// before is passed over; after a gap nothing is taken.
func (m *Machine) takeChannelRows(c *cellpb.ChannelRows, out *cellpb.Applied) *cellpb.Result {
	source := proto.RangeID(c.Source)
	in := m.channelIn(source)
	switch {
	case len(c.Rows) == 0:
		return &cellpb.Result{Counted: in.number}
	case in.incarnation == "":
		// Nothing of this channel was ever counted, so row 1 is the next. A
		// source with a new host may offer a later one first.
		in.incarnation = string(c.Incarnation)
	case in.incarnation != string(c.Incarnation):
		// The source was restored from a backup: its numbers begin anew.
		in = channelIn{number: max(1, c.Rows[0].Number) - 1, incarnation: string(c.Incarnation)}
	}
	for _, row := range c.Rows {
		if row.Number <= in.number {
			continue
		}
		if row.Number != in.number+1 {
			break
		}
		in.number++
		m.takeRow(source, row, out)
	}
	value := binary.BigEndian.AppendUint64(nil, in.number)
	m.putRaw(engine.ChannelInKey(m.rng, source), append(value, in.incarnation...))
	return &cellpb.Result{Counted: in.number}
}

// takeRow gives one row its effect here, if it has any.
func (m *Machine) takeRow(source proto.RangeID, row *cellpb.ChannelRow, out *cellpb.Applied) {
	switch body := row.Body.(type) {
	case *cellpb.ChannelRow_Message:
		msg := body.Message
		user := proto.EntityID(msg.User)
		thread, err := proto.ParseThreadID(msg.Thread)
		if err != nil || !thread.Has(user) || !m.rng.Contains(user) {
			return
		}
		joins := m.joinedThread(user, thread).LastSeq == 0
		m.logMessage(thread, msg, row.Event, out)
		if u := m.user(user); joins && u.exists && u.directFrom != clientpb.DirectFrom_DIRECT_FROM_ANYONE {
			// From here on the source hears of every change by itself.
			m.tellDirectFrom(user, source, out)
		}
	case *cellpb.ChannelRow_Mark:
		m.takeMarkRow(body.Mark, out)
	case *cellpb.ChannelRow_Contact:
		m.takeContact(source, body.Contact, out)
	case *cellpb.ChannelRow_Profile:
		m.takeProfile(source, body.Profile, out)
	case *cellpb.ChannelRow_Live:
		m.takeLive(source, body.Live, out)
	case *cellpb.ChannelRow_DirectFrom:
		m.takeDirectFrom(source, body.DirectFrom)
	}
}

// channel finds the counters of the channel here → dest: by cache, else by
// one seek for its last row.
func (m *Machine) channel(dest proto.RangeID) *channelCounters {
	if ch := m.channels[dest]; ch != nil {
		return ch
	}
	ch := new(channelCounters)
	if value, closer, err := m.db.Get(engine.ChannelTrimmedKey(m.rng, dest)); err == nil {
		if len(value) == 8 {
			ch.trimmed = binary.BigEndian.Uint64(value)
		}
		_ = closer.Close()
	} else if err != pebble.ErrNotFound {
		m.fail(err)
	}
	ch.last = ch.trimmed
	span := engine.Span{Start: engine.ChannelOutKey(m.rng, dest, 0), End: engine.ChannelOutKey(m.rng, dest+1, 0)}
	m.lastKey(span, func(key, _ []byte) { ch.last = max(ch.last, engine.LastNumber(key)) })
	m.channels[dest] = ch
	return ch
}

// trimChannel drops what the destination has counted.
func (m *Machine) trimChannel(c *cellpb.TrimChannel) *cellpb.Result {
	dest := proto.RangeID(c.Dest)
	ch := m.channel(dest)
	if c.Counted > ch.last {
		return refusef(proto.CodeBadRequest, "channel to range %s ends at %d, cannot trim to %d", dest, ch.last, c.Counted)
	}
	if c.Counted <= ch.trimmed {
		return &cellpb.Result{Counted: ch.trimmed}
	}
	m.fail(m.batch.DeleteRange(engine.ChannelOutKey(m.rng, dest, ch.trimmed+1), engine.ChannelOutKey(m.rng, dest, c.Counted+1), nil))
	ch.trimmed = c.Counted
	m.fail(m.batch.Set(engine.ChannelTrimmedKey(m.rng, dest), binary.BigEndian.AppendUint64(nil, ch.trimmed), nil))
	return &cellpb.Result{Counted: ch.trimmed}
}
