package live

import (
	"time"

	"github.com/pion/rtp"
	"golang.org/x/time/rate"
)

// byteLimit ends publishers that send too much. What arrives over UDP cannot be
// slowed down, so nothing is.
type byteLimit struct{ limiter *rate.Limiter }

// limitBurst is over how many seconds the limit is an average: players of files
// begin with what they have read ahead, and RTMP with what was analysed.
const limitBurst = 5

func newByteLimit(perSecond int) *byteLimit {
	return &byteLimit{rate.NewLimiter(rate.Limit(perSecond), limitBurst*perSecond)}
}

func (l *byteLimit) allow(n int) bool { return l.limiter.AllowN(time.Now(), n) }

// source is a track as its publisher sends it.
type source struct {
	track  *track // where it goes
	depack func(*rtp.Packet) ([][]byte, error)
}

// spend counts bytes that have come; false if they are too many, and the
// publisher is on its way out.
func (p *publisher) spend(n int) bool {
	p.hear()
	p.ls.metrics.received[p.protocol].Add(float64(n))
	if p.limit.allow(n) {
		return true
	}
	p.release("it sends more than is allowed")
	p.disconnect()
	return false
}

// write gives viewers a unit of track i that came with pts, in ticks of the
// track's clock.
func (p *publisher) write(i int, pts int64, parts [][]byte) {
	ls := p.ls
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.pub != p || ls.state != On {
		return
	}
	t := p.sources[i].track
	u := unit{track: t.index, parts: parts}
	if u.pts = ls.line.place(t, pts, time.Now()); !t.refine(&u) {
		return
	}
	for _, part := range u.parts {
		u.size += len(part)
	}
	u.at = ls.line.clock(u.pts, t.rate)
	u.start = u.key && (t.video || !ls.video)
	if packets, err := t.pack(u.parts); err == nil {
		for _, packet := range packets {
			packet.Timestamp += uint32(u.pts) + t.offset
			ls.send(t, packet, u.at)
		}
	}
	if ls.hls != nil {
		ls.hls.queue.push(u)
	}
	if ls.rec != nil {
		ls.rec.queue.push(u)
	}
	for q := range ls.queues {
		q.push(u)
	}
}

// pass gives viewers a packet of a track of which nothing is known.
func (p *publisher) pass(i int, pts int64, packet *rtp.Packet) {
	ls := p.ls
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.pub != p || ls.state != On {
		return
	}
	t := p.sources[i].track
	if packet.MarshalSize() > packetBytesMax {
		ls.metrics.dropped[protocolRTSP].Inc()
		return // it does not fit into a datagram
	}
	now := time.Now()
	out := &rtp.Packet{Header: packet.Header, Payload: packet.Payload}
	out.PayloadType, out.SequenceNumber = t.format.PayloadType(), t.sequence
	t.sequence++
	if t.rate > 0 {
		placed := ls.line.place(t, pts, now)
		out.Timestamp = uint32(placed) + t.offset
		now = ls.line.clock(placed, t.rate)
	}
	ls.send(t, out, now)
}

// send gives a packet to those who watch by RTSP, under the lock. It waits for
// nobody: every viewer has a queue.
func (ls *livestream) send(t *track, packet *rtp.Packet, at time.Time) {
	if ls.out != nil {
		_ = ls.out.WritePacketRTPWithNTP(t.media, packet, at)
	}
}

// countSent brings the metric of bytes sent by RTSP up to date, under the lock.
func (ls *livestream) countSent() {
	if ls.out == nil {
		return
	}
	now := ls.out.Stats().BytesSent
	if now > ls.counted {
		ls.metrics.sent[protocolRTSP].Add(float64(now - ls.counted))
		ls.counted = now
	}
}
