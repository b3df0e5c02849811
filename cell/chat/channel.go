package chat

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// channelBuffer bounds the rows of one channel kept in memory; further
	// ones are read from the log when their turn comes.
	channelBuffer = 2048
	// channelRows and channelBytes bound one delivery.
	channelRows  = 512
	channelBytes = 1 << 20
	// channelTimeout bounds one delivery, retries included.
	channelTimeout = 5 * time.Second
	// trimAfter is how many counted rows gather before they are trimmed at
	// once; fewer are trimmed about every second.
	trimAfter = 256
)

// outChannel drains the channel from one hosted range to another. One
// delivery is under way at a time and takes all that has gathered.
type outChannel struct {
	dest    proto.RangeID
	next    uint64               // the next row to deliver
	last    uint64               // the newest row known of
	buffer  []*cellpb.ChannelRow // rows next, next+1 …
	counted uint64               // by the destination
	trimmed uint64               // here, as far as proposed
	busy    bool                 // reading or delivering
	backoff time.Duration
}

// openChannels finds the channels that hold rows.
func (h *host) openChannels() {
	q := &cellpb.LeadRead{Body: &cellpb.LeadRead_ChannelHeads{ChannelHeads: &cellpb.ReadChannelHeads{}}}
	h.read(q, func(r *cellpb.ReadResult, err *proto.Error) {
		if err != nil {
			if !h.closed {
				time.AfterFunc(housekeeping, func() { h.shard.post(h.openChannels) })
			}
			return
		}
		for _, head := range r.ChannelHeads {
			ch := h.channel(proto.RangeID(head.Dest), head.First)
			ch.last = max(ch.last, head.Last)
			if head.First < ch.next {
				// Rows applied since were seen first: start over from the log.
				ch.next, ch.buffer = head.First, nil
				ch.counted, ch.trimmed = head.First-1, head.First-1
			}
		}
		h.channelsKnown = true
		h.pumpChannels()
	})
}

func (h *host) channel(dest proto.RangeID, first uint64) *outChannel {
	ch := h.channels[dest]
	if ch == nil {
		ch = &outChannel{dest: dest, next: first, last: first - 1, counted: first - 1, trimmed: first - 1}
		h.channels[dest] = ch
	}
	return ch
}

// channelRow takes a row that applying has appended.
func (h *host) channelRow(row *cellpb.ChannelRow) {
	ch := h.channel(proto.RangeID(row.Dest), row.Number)
	ch.last = max(ch.last, row.Number)
	if row.Number == ch.next+uint64(len(ch.buffer)) && len(ch.buffer) < channelBuffer {
		ch.buffer = append(ch.buffer, row)
	}
}

func (h *host) pumpChannels() {
	for _, ch := range h.channels {
		h.pump(ch)
	}
}

// pump delivers what has gathered, or reads it first.
func (h *host) pump(ch *outChannel) {
	if ch.busy || h.closed || !h.channelsKnown || ch.next > ch.last {
		return // until the heads are known, older rows may wait in the log
	}
	ch.busy = true
	if len(ch.buffer) > 0 {
		h.deliver(ch)
		return
	}
	q := &cellpb.ReadChannel{Dest: uint64(ch.dest), After: ch.next - 1, Limit: channelRows}
	h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Channel{Channel: q}}, func(r *cellpb.ReadResult, err *proto.Error) {
		if h.closed {
			return
		}
		if err != nil || len(r.ChannelRows) == 0 || r.ChannelRows[0].Number != ch.next {
			h.pumpLater(ch)
			return
		}
		ch.buffer = r.ChannelRows
		h.deliver(ch)
	})
}

func (h *host) pumpLater(ch *outChannel) {
	ch.backoff = min(max(2*ch.backoff, 50*time.Millisecond), 2*time.Second)
	time.AfterFunc(ch.backoff, func() {
		h.shard.post(func() {
			ch.busy = false
			h.pump(ch)
		})
	})
}

func (h *host) deliver(ch *outChannel) {
	n, bytes := 0, 0
	for n < len(ch.buffer) && n < channelRows && bytes < channelBytes {
		bytes += channelRowBytes(ch.buffer[n])
		n++
	}
	rows := append([]*cellpb.ChannelRow(nil), ch.buffer[:n]...)
	req := &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ChannelRows{ChannelRows: &cellpb.ChannelRows{
		Source: uint64(h.rng), Incarnation: h.incarnation, Rows: rows,
	}}}
	h.s.relay.Go(ch.dest, req, channelTimeout, func(reply *cellpb.RelayReply, err error) {
		h.shard.post(func() { h.delivered(ch, reply, err) })
	})
}

// delivered takes the number the destination has counted up to.
func (h *host) delivered(ch *outChannel, reply *cellpb.RelayReply, err error) {
	if h.closed {
		return
	}
	if err != nil || reply.GetResult() == nil {
		h.pumpLater(ch)
		return
	}
	counted := reply.GetResult().Counted
	if counted < ch.trimmed || counted > ch.last {
		// It lacks what was trimmed here, or counts what was never appended:
		// only a restored backup can do that.
		h.s.cfg.Logger.Error("channel numbers do not fit", "range", h.rng, "dest", ch.dest, "counted", counted, "next", ch.next, "last", ch.last)
		h.pumpLater(ch)
		return
	}
	ch.busy, ch.backoff = false, 0
	switch taken := int(counted + 1 - ch.next); {
	case counted+1 < ch.next || taken >= len(ch.buffer):
		ch.buffer = nil // read again from there, if anything is left
	default:
		ch.buffer = append([]*cellpb.ChannelRow(nil), ch.buffer[taken:]...)
	}
	ch.next, ch.counted = counted+1, counted
	if ch.counted-ch.trimmed >= trimAfter {
		h.trim(ch)
	}
	h.pump(ch)
}

// trimChannels trims the channels that have at least rows counted.
func (h *host) trimChannels(rows uint64) {
	for _, ch := range h.channels {
		if ch.counted-ch.trimmed >= rows {
			h.trim(ch)
		}
	}
}

func (h *host) trim(ch *outChannel) {
	before := ch.trimmed
	ch.trimmed = ch.counted
	c := &cellpb.TrimChannel{Dest: uint64(ch.dest), Counted: ch.counted}
	h.propose(&cellpb.Command{Body: &cellpb.Command_TrimChannel{TrimChannel: c}}, 40, func(r *cellpb.Result, err *proto.Error) {
		if err != nil || r.Code != 0 {
			ch.trimmed = min(ch.trimmed, before) // the next trim takes it along
		}
	})
}
