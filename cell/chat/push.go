package chat

import (
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// pushAll hands the updates that applying has logged to the sessions that are
// level with the log; the others find them there.
func (h *host) pushAll(updates []*cellpb.LoggedUpdate) {
	if len(updates) == 0 {
		return
	}
	byUser := map[uint64][]*cellpb.LoggedUpdate{}
	var order []uint64
	for _, up := range updates {
		if c := up.Update.GetContact(); c != nil {
			h.contactChanged(proto.EntityID(up.User), c.Contact)
		}
		if needsEvent(up) {
			k := bodyKey{up.Update.Thread, up.Update.Seq}
			up.Event = h.bodies[k]
		}
		if h.users[proto.EntityID(up.User)] == nil {
			continue
		}
		if byUser[up.User] == nil {
			order = append(order, up.User)
		}
		byUser[up.User] = append(byUser[up.User], up)
	}
	for _, id := range order {
		h.pushUser(h.users[proto.EntityID(id)], byUser[id])
	}
}

func (h *host) pushUser(u *hostedUser, updates []*cellpb.LoggedUpdate) {
	first, last := updates[0].Pts, updates[len(updates)-1].Pts
	u.newest = max(u.newest, last)
	var level []*session
	for _, ses := range u.sessions {
		if !ses.subscribe || !ses.attached || ses.catching {
			continue
		}
		if ses.sent+1 == first {
			ses.sent = last
			level = append(level, ses)
		} else if ses.sent < last {
			ses.catchUp()
		}
	}
	if len(level) > 0 {
		h.sendUpdates(level, updates)
	}
}

// sendUpdates sends consecutive updates to sessions of one user, encoded once.
func (h *host) sendUpdates(sessions []*session, updates []*cellpb.LoggedUpdate) {
	byEdge := map[*edgeConn][]uint64{}
	for _, ses := range sessions {
		byEdge[ses.edge] = append(byEdge[ses.edge], ses.id)
	}
	newest := sessions[0].user.newest
	for len(updates) > 0 {
		n, size := 0, 0
		frame := new(clientpb.Updates)
		for n < len(updates) && n < proto.UpdatesPerFrameMax && size < proto.UpdatesBytesPerFrame {
			frame.Updates = append(frame.Updates, wireUpdate(updates[n]))
			size += updateBytes(updates[n])
			n++
		}
		push := &cellpb.Push{
			FirstPts: updates[0].Pts, LastPts: updates[n-1].Pts, Newest: newest,
			Frame: encode(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Updates{Updates: frame}}),
		}
		for edge, ids := range byEdge {
			edge.send(&cellpb.HostFrame{Sessions: ids, Body: &cellpb.HostFrame_Push{Push: push}}, len(push.Frame)+30)
		}
		h.s.metrics.pushes.Inc()
		updates = updates[n:]
	}
}

// catchUp reads the log from where the session is, page by page, until it is
// level.
func (ses *session) catchUp() {
	if ses.closed || !ses.subscribe || !ses.attached || ses.catching || ses.sent >= ses.user.newest {
		return
	}
	ses.catching = true
	h := ses.host
	h.s.metrics.catchUpPages.Inc()
	q := &cellpb.ReadUpdates{User: uint64(ses.user.id), After: ses.sent, Limit: proto.UpdatesPerFrameMax}
	h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: q}}, func(r *cellpb.ReadResult, err *proto.Error) {
		if ses.closed {
			return
		}
		if err != nil || r.Trimmed {
			// Attaching again finds the way: another host, or resynchronise.
			ses.drop()
			ses.edge.refuse(ses.id, 0, h.gone("the log could not be read from there"), nil)
			return
		}
		ses.user.newest = max(ses.user.newest, r.Pts)
		h.fillBodies(r.Updates, func() { ses.page(q.After, r.Updates) })
	})
}

// page sends one page to a session that is catching up.
func (ses *session) page(after uint64, updates []*cellpb.LoggedUpdate) {
	if ses.closed {
		return
	}
	ses.catching = false
	if ses.sent == after && len(updates) > 0 { // else the edge has asked for another place meanwhile
		ses.sent = updates[len(updates)-1].Pts
		ses.host.sendUpdates([]*session{ses}, updates)
	}
	ses.catchUp()
}

// fetch starts again from an earlier place: the edge has dropped pushes.
func (ses *session) fetch(after uint64) {
	if !ses.attached || after > ses.user.newest {
		return
	}
	ses.sent = after
	ses.catchUp()
}

// fillBodies adds the events of threads owned elsewhere and then calls done,
// on the shard, within about [foreignBodyTimeout].
func (h *host) fillBodies(updates []*cellpb.LoggedUpdate, done func()) {
	missing := map[proto.RangeID][]*cellpb.LoggedUpdate{}
	for _, up := range updates {
		if !needsEvent(up) {
			continue
		}
		if thread, err := proto.ParseThreadID(up.Update.Thread); err == nil && thread.OwnerRange() != h.rng {
			missing[thread.OwnerRange()] = append(missing[thread.OwnerRange()], up)
		}
	}
	left := len(missing)
	if left == 0 {
		done()
		return
	}
	for owner, ups := range missing {
		refs := make([]*cellpb.EventRef, len(ups))
		for i, up := range ups {
			refs[i] = &cellpb.EventRef{Thread: up.Update.Thread, Seq: up.Update.Seq}
		}
		h.readEvents(owner, refs, func(found map[bodyKey]*cellpb.StoredEvent) {
			for _, up := range ups {
				up.Event = found[bodyKey{up.Update.Thread, up.Update.Seq}]
			}
			if left--; left == 0 {
				done()
			}
		})
	}
}

// readEvents asks another range for events; what cannot be had in time is
// missing from the answer. done runs on the shard.
func (h *host) readEvents(owner proto.RangeID, refs []*cellpb.EventRef, done func(map[bodyKey]*cellpb.StoredEvent)) {
	req := &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadEvents{ReadEvents: &cellpb.ReadEvents{Refs: refs}}}
	h.s.relay.Go(owner, req, foreignBodyTimeout, func(reply *cellpb.RelayReply, _ error) {
		h.shard.post(func() {
			found := map[bodyKey]*cellpb.StoredEvent{}
			events := reply.GetEvents()
			for i, ref := range events.GetRefs() {
				found[bodyKey{ref.Thread, ref.Seq}] = events.Events[i]
			}
			done(found)
		})
	})
}
