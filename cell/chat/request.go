package chat

import (
	"time"
	"unicode/utf8"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// relayTimeout is how long a request that crosses ranges may take before the
// client is told to try again later.
const relayTimeout = 4 * time.Second

// frame serves one frame of a client, as it was sent.
func (ses *session) frame(b []byte) {
	f := new(clientpb.ClientFrame)
	if err := codec.Unmarshal(b, f); err != nil {
		ses.answer(errorFrame(0, proto.Errorf(proto.CodeBadFrame, "the frame cannot be read")))
		return
	}
	ses.request(f)
}

// request serves one frame of a client.
func (ses *session) request(f *clientpb.ClientFrame) {
	switch body := f.Body.(type) {
	case *clientpb.ClientFrame_SendMessage:
		ses.host.s.metrics.sends.Inc()
		ses.host.s.cfg.Gate.Message()
		ses.send(f.Id, body.SendMessage)
	case *clientpb.ClientFrame_ReadHistory:
		ses.history(f.Id, body.ReadHistory)
	case *clientpb.ClientFrame_ListThreads:
		ses.threads(f.Id, body.ListThreads)
	case *clientpb.ClientFrame_MarkRead:
		ses.markRead(f.Id, body.MarkRead)
	case *clientpb.ClientFrame_Typing:
		ses.typing(body.Typing)
	case *clientpb.ClientFrame_FindUser:
		ses.findUser(f.Id, body.FindUser)
	case *clientpb.ClientFrame_FindPeople:
		ses.findPeople(f.Id, body.FindPeople)
	case *clientpb.ClientFrame_ChangeContact:
		ses.changeContact(f.Id, body.ChangeContact)
	case *clientpb.ClientFrame_EditContact:
		ses.editContact(f.Id, body.EditContact)
	case *clientpb.ClientFrame_ListContacts:
		ses.listContacts(f.Id, body.ListContacts)
	case *clientpb.ClientFrame_ReadProfile:
		ses.readProfile(f.Id)
	case *clientpb.ClientFrame_SetProfile:
		ses.setProfile(f.Id, body.SetProfile)
	default:
		if ses.deviceRequest(f) {
			return
		}
		ses.fail(f.Id, proto.Errorf(proto.CodeBadFrame, "a frame this server does not know"))
	}
}

func (ses *session) fail(id uint64, err *proto.Error) { ses.answer(errorFrame(id, err)) }

// memberThread parses a thread's name and checks that the caller is in it.
func (ses *session) memberThread(name string) (proto.ThreadID, *proto.Error) {
	thread, err := proto.ParseThreadID(name)
	if err != nil {
		return thread, proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	if !thread.Has(ses.user.id) {
		return thread, proto.Errorf(proto.CodeNotMember, "you are not a member of thread %s", thread)
	}
	return thread, nil
}

// send checks a message and hands it to the range that orders its thread.
func (ses *session) send(id uint64, m *clientpb.SendMessage) {
	thread, err := ses.memberThread(m.Thread)
	if err == nil {
		err = checkMessage(m)
	}
	if err == nil {
		err = ses.takeToken()
	}
	if err != nil {
		ses.fail(id, err)
		return
	}
	h, began := ses.host, ses.host.shard.arrived
	h.shard.sends.Begin(began)
	answer := func(frame []byte) {
		h.shard.sends.End(began, time.Now())
		ses.answer(frame)
	}
	h.resolvePeer(ses.user.id, thread, func(peer peerFound) {
		if peer.err != nil {
			answer(errorFrame(id, peer.err))
			return
		}
		c := &cellpb.AppendMessage{
			Thread: m.Thread, From: uint64(ses.user.id), ClientMsgId: m.ClientMsgId, After: m.After,
			FromName: ses.user.name, ToName: peer.name, Device: ses.device,
			FriendsOnly: h.s.cfg.FriendsOnly, ToDirectFrom: peer.directFrom, ToDirectChanged: peer.changed,
		}
		setBody(c, m)
		done := func(r *cellpb.Result, err *proto.Error) {
			if err == nil && r.Code != 0 {
				err = proto.AsError(proto.FromWire(r.Code, r.Message, r.RetryMs))
			}
			if err != nil {
				answer(errorFrame(id, err))
				return
			}
			h.peerKnown(thread, peer.name)
			answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{
				Thread: m.Thread, Seq: r.Seq, TimeMs: r.TimeMs, ClientMsgId: m.ClientMsgId,
			}}}))
		}
		h.completeBody(c, func(err *proto.Error) {
			if err != nil {
				answer(errorFrame(id, err))
				return
			}
			h.append(thread, c, done)
		})
	})
}

// append hands a message to the range that orders its thread.
func (h *host) append(thread proto.ThreadID, c *cellpb.AppendMessage, done func(*cellpb.Result, *proto.Error)) {
	if owner := thread.OwnerRange(); owner != h.rng {
		h.relay(owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_Append{Append: c}}, func(reply *cellpb.RelayReply, err *proto.Error) {
			done(reply.GetResult(), err)
		})
		return
	}
	h.propose(&cellpb.Command{Body: &cellpb.Command_AppendMessage{AppendMessage: c}}, appendBytes(c), done)
}

// takeToken applies the limit on the user's sends.
func (ses *session) takeToken() *proto.Error {
	u := ses.user
	if u.limiter == nil {
		if u.limiter = ses.host.s.newLimiter(); u.limiter == nil {
			return nil
		}
	}
	r := u.limiter.Reserve()
	wait := r.Delay()
	if wait == 0 {
		return nil
	}
	r.Cancel()
	err := proto.Errorf(proto.CodeRateLimited, "too many messages: at most %d per second", ses.host.s.cfg.MessagesPerSecond)
	err.Retry = wait
	return err
}

// relay asks another range and answers on the shard.
func (h *host) relay(r proto.RangeID, req *cellpb.RelayRequest, done func(*cellpb.RelayReply, *proto.Error)) {
	h.s.relay.Go(r, req, relayTimeout, func(reply *cellpb.RelayReply, err error) {
		h.shard.post(func() {
			if err != nil {
				done(reply, proto.AsError(err))
				return
			}
			done(reply, nil)
		})
	})
}

// peerFound is what became of looking a user up.
type peerFound struct {
	name string
	err  *proto.Error

	// Where the two have not written to each other yet: who may write to the
	// peer, as just read, and the count of his profile's changes.
	directFrom clientpb.DirectFrom
	changed    uint64
}

// resolvePeer makes sure that the other side of a direct thread exists. Sends
// that wait for the same peer go on in the order they came.
func (h *host) resolvePeer(user proto.EntityID, thread proto.ThreadID, done func(peerFound)) {
	peer := thread.Peer(user)
	if waiting, ok := h.lookups[thread]; ok {
		h.lookups[thread] = append(waiting, done)
		return
	}
	if name, ok := h.peers[thread]; ok {
		done(peerFound{name: name})
		return
	}
	h.lookups[thread] = []func(peerFound){done}
	row := &cellpb.ReadThreadRow{User: uint64(user), Thread: thread.String()}
	var look func(anyAge bool)
	look = func(anyAge bool) {
		h.read(&cellpb.LeadRead{AnyAge: anyAge, Body: &cellpb.LeadRead_ThreadRow{ThreadRow: row}}, func(r *cellpb.ReadResult, err *proto.Error) {
			switch {
			case err != nil:
				h.peerResolved(thread, peerFound{err: err})
			case len(r.Threads) == 1:
				// They have written before: so the peer exists, even if its
				// cell cannot be asked just now.
				h.peerKnown(thread, r.Threads[0].Row.PeerName)
				h.peerResolved(thread, peerFound{name: r.Threads[0].Row.PeerName})
			case anyAge:
				look(false)
			default:
				h.readUser(peer, func(info *cellpb.UserInfo, err *proto.Error) {
					p := info.GetProfile()
					h.peerResolved(thread, peerFound{name: p.GetName(), err: err, directFrom: p.GetDirectFrom(), changed: p.GetChanged()})
				})
			}
		})
	}
	look(true) // a thread stays, and a quorum need not be asked for what is here
}

// peerKnown remembers the other side of a thread that has messages: from then
// on the thread's owner is told by itself who may write to him.
func (h *host) peerKnown(thread proto.ThreadID, name string) {
	if _, known := h.peers[thread]; !known && len(h.peers) >= peersCached {
		clear(h.peers)
	}
	h.peers[thread] = name
}

func (h *host) peerResolved(thread proto.ThreadID, found peerFound) {
	waiting := h.lookups[thread]
	delete(h.lookups, thread)
	for _, done := range waiting {
		done(found)
	}
}

// readUser reads a user's record, in whatever range it is.
func (h *host) readUser(user proto.EntityID, done func(*cellpb.UserInfo, *proto.Error)) {
	q := &cellpb.ReadUser{User: uint64(user)}
	if h.rng.Contains(user) {
		h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_User{User: q}}, func(r *cellpb.ReadResult, err *proto.Error) {
			done(r.GetUser(), err)
		})
		return
	}
	h.routed(user.Range(), func(exists bool) {
		if !exists {
			done(nil, proto.Errorf(proto.CodeUnknownUser, "there is no user %s", user))
			return
		}
		h.relay(user.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadUser{ReadUser: q}}, func(reply *cellpb.RelayReply, err *proto.Error) {
			done(reply.GetUser(), err)
		})
	})
}

// routed says whether range r exists: at once when this node knows of it, else
// when it has heard of it, within [cellclient.RouteWait].
func (h *host) routed(r proto.RangeID, done func(exists bool)) {
	until := time.Now().Add(cellclient.RouteWait)
	var look func()
	look = func() {
		if _, ok := h.s.cfg.Locator.Route(r); ok || time.Now().After(until) {
			done(ok)
			return
		}
		time.AfterFunc(cellclient.RouteLook, func() { h.shard.post(look) })
	}
	look()
}

// history pages through a thread.
func (ses *session) history(id uint64, q *clientpb.ReadHistory) {
	thread, err := ses.memberThread(q.Thread)
	if err != nil {
		ses.fail(id, err)
		return
	}
	h := ses.host
	read := &cellpb.ReadThread{Thread: q.Thread, User: uint64(ses.user.id), Before: q.Before, After: q.After, Limit: q.Limit, AtMs: q.AtMs}
	done := func(events *cellpb.Events, err *proto.Error) {
		if err != nil {
			ses.fail(id, err)
			return
		}
		ses.answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_History{History: &clientpb.History{
			Events: wireEvents(events), More: events.GetMore(),
		}}}))
	}
	if owner := thread.OwnerRange(); owner != h.rng {
		h.relay(owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadThread{ReadThread: read}}, func(reply *cellpb.RelayReply, err *proto.Error) {
			done(reply.GetEvents(), err)
		})
		return
	}
	h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Thread{Thread: read}}, func(r *cellpb.ReadResult, err *proto.Error) {
		done(r.GetEvents(), err)
	})
}

// threads pages through the user's threads; the last message of one that is
// owned elsewhere is fetched there.
func (ses *session) threads(id uint64, q *clientpb.ListThreads) {
	h := ses.host
	read := &cellpb.ReadThreads{User: uint64(ses.user.id), Limit: q.Limit, Cursor: q.Cursor}
	h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Threads{Threads: read}}, func(r *cellpb.ReadResult, err *proto.Error) {
		if err != nil {
			ses.fail(id, err)
			return
		}
		missing := make([]*cellpb.LoggedUpdate, len(r.Threads))
		for i, t := range r.Threads {
			missing[i] = &cellpb.LoggedUpdate{Event: t.Last, Update: &cellpb.StoredUpdate{Thread: t.Thread, Seq: t.Row.LastSeq}}
		}
		h.fillBodies(missing, func() {
			ses.answer(threadsFrame(id, r, missing))
		})
	})
}

// threadsFrame shortens last messages so that a page always fits a frame.
func threadsFrame(id uint64, r *cellpb.ReadResult, last []*cellpb.LoggedUpdate) []byte {
	const previewBytes = 200
	out := &clientpb.Threads{Cursor: r.Cursor}
	for i, t := range r.Threads {
		one := &clientpb.Thread{
			Thread: t.Thread, LastSeq: t.Row.LastSeq, LastTimeMs: t.Row.LastTimeMs, ReadSeq: t.Row.ReadSeq,
			Messages: t.Row.Messages, Unread: t.Row.Messages - min(t.Row.Messages, t.Row.ReadMessages), PeerName: t.Row.PeerName,
			PeerDeliveredSeq: t.Row.PeerDelivered, PeerReadSeq: t.Row.PeerRead,
		}
		if last[i].Event != nil {
			one.Last = wireEvent(t.Thread, t.Row.LastSeq, last[i].Event)
			if text := one.Last.GetText(); text != nil && len(text.Text) > previewBytes {
				cut := previewBytes
				for !utf8.RuneStart(text.Text[cut]) {
					cut--
				}
				text.Text = text.Text[:cut] + "…"
			}
			if file := one.Last.GetFile(); len(file.GetThumbnail()) > 0 {
				file = pb.CloneOf(file) // the event is shared
				file.Thumbnail = nil
				one.Last.Body = &clientpb.Event_File{File: file}
			}
		}
		out.Threads = append(out.Threads, one)
	}
	return encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_Threads{Threads: out}})
}
