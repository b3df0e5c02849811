package chat

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// readersWaiting bounds the requests that wait for one read mark.
const readersWaiting = 1024

// marks holds back what would raise a user's marks more often than once in
// [proto.MarkInterval]. Edges repeat the requests when the host is lost, and
// the confirmations with the next attach; that a device was seen until now is
// lost with a host that is killed.
type marks struct {
	confirms map[deviceKey]confirmation
	flushed  map[uint64]time.Time // by user: confirmations went out last
	reads    map[readKey]*readMark
}

// confirmation is what is to be written of a device.
type confirmation struct {
	pts  uint64
	seen bool // its last connection has ended
}

type readKey struct {
	user   proto.EntityID
	thread string
}

// readMark joins the requests to mark one thread as read.
type readMark struct {
	last    time.Time // it was proposed, or the answer came
	busy    bool
	seq     uint64 // the greatest asked for
	waiting []readRequest
}

type readRequest struct {
	ses *session
	id  uint64
}

func newMarks() marks {
	return marks{confirms: map[deviceKey]confirmation{}, flushed: map[uint64]time.Time{}, reads: map[readKey]*readMark{}}
}

// confirm notes that a device has processed updates up to pts.
func (ses *session) confirm(pts uint64) {
	if !ses.subscribe || pts > ses.sent {
		return
	}
	ses.host.noteConfirm(deviceKey{uint64(ses.user.id), ses.device}, confirmation{pts: pts})
}

func (h *host) noteConfirm(k deviceKey, c confirmation) {
	have := h.marks.confirms[k]
	h.marks.confirms[k] = confirmation{pts: max(have.pts, c.pts), seen: have.seen || c.seen}
}

// flushConfirms proposes the devices' high-water marks, joined, those of one
// user at most once in [proto.MarkInterval].
func (h *host) flushConfirms(now time.Time) {
	for user, at := range h.marks.flushed {
		if now.Sub(at) >= proto.MarkInterval {
			delete(h.marks.flushed, user)
		}
	}
	if len(h.marks.confirms) == 0 {
		return
	}
	c := new(cellpb.ConfirmUpdates)
	taken := map[deviceKey]confirmation{}
	for k, mark := range h.marks.confirms {
		if _, recent := h.marks.flushed[k.user]; recent {
			continue
		}
		c.Marks = append(c.Marks, &cellpb.DeviceMark{User: k.user, Device: k.device, Pts: mark.pts, Seen: mark.seen})
		taken[k] = mark
		delete(h.marks.confirms, k)
	}
	if len(c.Marks) == 0 {
		return
	}
	for k := range taken {
		h.marks.flushed[k.user] = now
	}
	h.propose(&cellpb.Command{Body: &cellpb.Command_ConfirmUpdates{ConfirmUpdates: c}}, 40*len(c.Marks),
		func(_ *cellpb.Result, err *proto.Error) {
			if err == nil || h.closed {
				return
			}
			for k, mark := range taken { // no later one may ever come
				h.noteConfirm(k, mark)
			}
		})
}

// markRead raises the caller's read mark: at once, or with what else is asked
// within [proto.MarkInterval] after the last time.
func (ses *session) markRead(id uint64, q *clientpb.MarkRead) {
	if _, err := ses.memberThread(q.Thread); err != nil {
		ses.fail(id, err)
		return
	}
	h := ses.host
	k := readKey{ses.user.id, q.Thread}
	r := h.marks.reads[k]
	if r == nil {
		r = new(readMark)
		h.marks.reads[k] = r
	}
	if len(r.waiting) >= readersWaiting {
		ses.fail(id, proto.Errorf(proto.CodeOverloaded, "too many requests to mark thread %s as read", q.Thread))
		return
	}
	r.seq = max(r.seq, q.Seq)
	r.waiting = append(r.waiting, readRequest{ses, id})
	h.raiseRead(k, r, time.Now())
}

// flushReads raises the read marks whose time has come and forgets idle ones.
func (h *host) flushReads(now time.Time) {
	for k, r := range h.marks.reads {
		h.raiseRead(k, r, now)
		if !r.busy && len(r.waiting) == 0 && now.Sub(r.last) >= proto.MarkInterval {
			delete(h.marks.reads, k)
		}
	}
}

// raiseRead proposes a read mark, unless one is under way or was proposed just
// now.
func (h *host) raiseRead(k readKey, r *readMark, now time.Time) {
	if r.busy || len(r.waiting) == 0 || now.Sub(r.last) < proto.MarkInterval {
		return
	}
	seq, waiting := r.seq, r.waiting
	r.busy, r.last, r.waiting = true, now, nil
	h.proposeRead(k, seq, func(answer *cellpb.Result, err *proto.Error) {
		r.busy = false
		if err == nil && answer.Code != 0 {
			err = proto.AsError(proto.FromWire(answer.Code, answer.Message, answer.RetryMs))
		}
		for _, w := range waiting {
			if err != nil {
				w.ses.fail(w.id, err)
				continue
			}
			w.ses.answer(encode(&clientpb.ServerFrame{Id: w.id, Body: &clientpb.ServerFrame_ReadMarked{
				ReadMarked: &clientpb.ReadMarked{Thread: k.thread, Seq: answer.Seq},
			}}))
		}
	})
}

// proposeRead raises a read mark. The count of messages at the mark comes from
// the thread's owner, so that unread is a difference of counts; a mark beyond
// the thread's end, of which the owner knows nothing, is cut when applied.
func (h *host) proposeRead(k readKey, seq uint64, done func(*cellpb.Result, *proto.Error)) {
	thread, err := proto.ParseThreadID(k.thread)
	if err != nil {
		done(nil, proto.Errorf(proto.CodeBadRequest, "%v", err))
		return
	}
	mark := func(events *cellpb.Events, err *proto.Error) {
		if err != nil {
			done(nil, err)
			return
		}
		c := &cellpb.MarkThread{User: uint64(k.user), Thread: k.thread, ReadSeq: seq}
		if len(events.GetEvents()) == 1 {
			c.ReadMessages = events.Events[0].Messages
		}
		h.propose(&cellpb.Command{Body: &cellpb.Command_MarkThread{MarkThread: c}}, 60, done)
	}
	read := &cellpb.ReadEvents{Refs: []*cellpb.EventRef{{Thread: k.thread, Seq: seq}}}
	if owner := thread.OwnerRange(); owner != h.rng {
		h.relay(owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadEvents{ReadEvents: read}}, func(reply *cellpb.RelayReply, err *proto.Error) {
			mark(reply.GetEvents(), err)
		})
		return
	}
	h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Events{Events: read}}, func(r *cellpb.ReadResult, err *proto.Error) {
		mark(r.GetEvents(), err)
	})
}
