package chat

import (
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// liveCommand is what a resource node asks of a user's range about his
// livestreams, as a command; nil: it is none of that.
func liveCommand(req *cellpb.RelayRequest) *cellpb.Command {
	switch body := req.Body.(type) {
	case *cellpb.RelayRequest_CreateLive:
		return &cellpb.Command{Body: &cellpb.Command_CreateLive{CreateLive: body.CreateLive}}
	case *cellpb.RelayRequest_ReportLive:
		return &cellpb.Command{Body: &cellpb.Command_ReportLive{ReportLive: body.ReportLive}}
	case *cellpb.RelayRequest_RemoveLive:
		return &cellpb.Command{Body: &cellpb.Command_RemoveLive{RemoveLive: body.RemoveLive}}
	}
	return nil
}

// post sends a message for a user of this range, as if one of his devices had:
// a resource node asks for it, with a client message id that makes it one.
func (h *host) post(p *cellpb.PostMessage, done func(*cellpb.Result, *proto.Error)) {
	user := proto.EntityID(p.User)
	thread, parseErr := proto.ParseThreadID(p.Thread)
	switch {
	case parseErr != nil:
		done(nil, proto.Errorf(proto.CodeBadRequest, "%v", parseErr))
		return
	case !h.rng.Contains(user) || !thread.Has(user):
		done(nil, proto.Errorf(proto.CodeNotMember, "user %s is not a member of thread %s", user, thread))
		return
	case p.File != nil:
		if err := checkFile(p.File); err != nil {
			done(nil, err)
			return
		}
	}
	fail := func(err *proto.Error) { done(nil, err) }
	h.readUser(user, func(info *cellpb.UserInfo, err *proto.Error) {
		if err != nil {
			fail(err)
			return
		}
		h.resolvePeer(user, thread, func(peer peerFound) {
			if peer.err != nil {
				fail(peer.err)
				return
			}
			c := &cellpb.AppendMessage{
				Thread: p.Thread, From: p.User, ClientMsgId: p.ClientMsgId, FromName: info.GetProfile().GetName(), ToName: peer.name,
				FriendsOnly: h.s.cfg.FriendsOnly, ToDirectFrom: peer.directFrom, ToDirectChanged: peer.changed,
				Live: p.Live, File: p.File,
			}
			h.completeBody(c, func(err *proto.Error) {
				if err != nil {
					fail(err)
					return
				}
				h.append(thread, c, done)
			})
		})
	})
}

// tellLive tells the members of a thread of this range how many watch a
// livestream. It is a signal: at most once, never stored.
func (h *host) tellLive(t *cellpb.LiveTold, done func(*cellpb.Result, *proto.Error)) {
	q := &cellpb.ReadMembers{Thread: t.GetViewers().GetThread(), User: t.From}
	h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Members{Members: q}}, func(r *cellpb.ReadResult, err *proto.Error) {
		if err != nil {
			done(nil, err)
			return
		}
		for _, user := range r.Members.GetUsers() {
			h.signal(proto.EntityID(user).Range(), &cellpb.Signal{
				From: t.From, To: []uint64{user}, Body: &cellpb.Signal_LiveViewers{LiveViewers: t.Viewers},
			})
		}
		h.flushSignals()
		done(&cellpb.Result{}, nil)
	})
}

// hearLive tells a user's sessions how many watch a livestream of a thread of
// his.
func (h *host) hearLive(user, from proto.EntityID, v *clientpb.LiveViewers) {
	thread, err := proto.ParseThreadID(v.GetThread())
	id, err2 := proto.ParseLiveID(v.GetLive())
	if err != nil || err2 != nil || id.Owner != from || !thread.Has(user) || !thread.Has(from) {
		return
	}
	h.tellSessions(h.sessionsOf(user), &clientpb.ServerFrame{Body: &clientpb.ServerFrame_LiveViewers{LiveViewers: v}})
}
