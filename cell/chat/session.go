package chat

import (
	"bytes"
	"time"

	"golang.org/x/time/rate"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// hostedUser is a user with sessions here.
type hostedUser struct {
	id       proto.EntityID
	name     string
	newest   uint64 // pts of the newest update known of
	sessions []*session
	limiter  *rate.Limiter
	hidden   bool          // friends see no presence of his
	asks     *rate.Limiter // of looking people up and changing contacts
}

// session is one client connection, as its edge has attached it.
//
//	attaching ──user row read──► live ◄──level with the log── catching up
//	                              └──────a push was missed──────►┘
type session struct {
	edge      *edgeConn
	id        uint64 // on that edge
	host      *host
	user      *hostedUser
	device    string
	platform  string
	transport string
	sinceMS   int64
	number    uint64 // session number, from the token
	authority uint64
	attempt   uint32
	subscribe bool
	attached  bool
	catching  bool
	closed    bool
	sent      uint64 // pts of the last update sent
}

// attach takes in a session. The edge is answered with attached or refused.
func (h *host) attach(edge *edgeConn, id uint64, a *cellpb.AttachSession) {
	user := proto.EntityID(a.User)
	if !h.rng.Contains(user) {
		edge.refuse(id, a.Attempt, proto.Errorf(proto.CodeBadRequest, "user %s is not in range %s", user, h.rng), nil)
		return
	}
	if a.Epoch != h.descriptor.GetEpoch() {
		edge.refuse(id, a.Attempt, proto.Errorf(proto.CodeStaleEpoch, "range %s is at epoch %d", h.rng, h.descriptor.GetEpoch()), h.route())
		return
	}
	u := h.users[user]
	if u == nil {
		u = &hostedUser{id: user}
		h.users[user] = u
	}
	ses := &session{
		edge: edge, id: id, host: h, user: u, device: a.Device, platform: a.Platform, transport: a.Transport,
		sinceMS: a.SinceMs, number: a.SessionNumber, authority: a.AuthorityVersion, attempt: a.Attempt, subscribe: a.Subscribe,
	}
	// Registered before reading, so that an update applied meanwhile is
	// counted in u.newest.
	u.sessions = append(u.sessions, ses)
	edge.add(ses)
	h.s.metrics.sessions.Inc()
	q := &cellpb.LeadRead{Body: &cellpb.LeadRead_User{User: &cellpb.ReadUser{User: a.User}}}
	h.read(q, func(result *cellpb.ReadResult, err *proto.Error) {
		if ses.closed {
			return
		}
		if err == nil {
			err = ses.admit(result.User)
		}
		if err != nil {
			ses.drop()
			edge.refuse(id, a.Attempt, err, nil)
			return
		}
		ses.resume(a, result.User)
	})
}

// admit compares the token's numbers with the user's record.
func (ses *session) admit(info *cellpb.UserInfo) *proto.Error {
	u := ses.user
	u.name = info.Profile.GetName()
	u.newest = max(u.newest, info.Pts)
	u.hidden = info.Profile.GetHidden()
	if ses.authority < info.Profile.GetAuthorityVersion() {
		return proto.Errorf(proto.CodeSessionEnded, "every login of %s was ended: log in again", u.name)
	}
	for _, d := range info.Devices {
		if d.Device != ses.device {
			continue
		}
		switch {
		case d.Row.Ended:
			return proto.SessionOver(proto.Code(d.Row.EndCode))
		case ses.number < d.Row.SessionNumber:
			return proto.Errorf(proto.CodeDisplaced, "this device has logged in anew elsewhere: log in again")
		}
		return nil
	}
	return proto.Errorf(proto.CodeSessionEnded, "this device is not known: log in again")
}

// resume says from where updates follow and starts them.
func (ses *session) resume(a *cellpb.AttachSession, info *cellpb.UserInfo) {
	answer := &cellpb.Attached{Incarnation: info.Incarnation, Pts: info.Pts, ResumeFrom: a.Pts, Attempt: a.Attempt, RequestsTaken: true}
	finish := func() {
		ses.attached = true
		ses.sent = answer.ResumeFrom
		ses.edge.send(&cellpb.HostFrame{Sessions: []uint64{ses.id}, Body: &cellpb.HostFrame_Attached{Attached: answer}}, 100)
		ses.host.arrived(ses)
		ses.catchUp()
		ses.host.shard.arrived = time.Now()
		for _, frame := range a.Requests {
			if !ses.closed {
				ses.frame(frame)
			}
		}
	}
	resync := func(why string) {
		answer.Resync, answer.ResyncReason, answer.ResumeFrom = true, why, info.Pts
		finish()
	}
	if a.FromConfirmed {
		for _, d := range info.Devices {
			if d.Device == ses.device {
				answer.ResumeFrom = d.Row.ConfirmedPts
			}
		}
	}
	switch {
	case !ses.subscribe:
		answer.ResumeFrom = info.Pts
		finish()
	case len(a.Incarnation) > 0 && !bytes.Equal(a.Incarnation, info.Incarnation):
		resync("the log was restored from a backup")
	case answer.ResumeFrom > info.Pts:
		resync("the log ends before the position asked for")
	case answer.ResumeFrom == info.Pts:
		finish()
	default:
		// One row tells whether the log still reaches back so far.
		probe := &cellpb.ReadUpdates{User: a.User, After: answer.ResumeFrom, Limit: 1}
		ses.host.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: probe}}, func(r *cellpb.ReadResult, err *proto.Error) {
			switch {
			case ses.closed:
			case err != nil:
				ses.drop()
				ses.edge.refuse(ses.id, a.Attempt, err, nil)
			case r.Trimmed:
				resync("the log was trimmed past the position asked for")
			default:
				finish()
			}
		})
	}
}

// drop forgets the session; the edge is told by the caller.
func (ses *session) drop() {
	if ses.closed {
		return
	}
	ses.closed = true
	ses.edge.remove(ses)
	u := ses.user
	for i, other := range u.sessions {
		if other == ses {
			u.sessions = append(u.sessions[:i], u.sessions[i+1:]...)
			break
		}
	}
	ses.host.departed(ses)
	if len(u.sessions) == 0 && ses.host.users[u.id] == u {
		delete(ses.host.users, u.id)
	}
	ses.host.s.metrics.sessions.Dec()
}

// end closes the client's connection with a reason.
func (ses *session) end(code proto.Code, message string) {
	if ses.closed {
		return
	}
	ses.drop()
	ses.edge.send(&cellpb.HostFrame{Sessions: []uint64{ses.id}, Body: &cellpb.HostFrame_End{
		End: &cellpb.EndSession{Code: uint32(code), Message: message},
	}}, 100)
}

// endDevice ends the sessions of a device with a number below next.
func (h *host) endDevice(user proto.EntityID, device string, next uint64, code proto.Code, why string) {
	u := h.users[user]
	if u == nil {
		return
	}
	for _, ses := range append([]*session(nil), u.sessions...) {
		if ses.device == device && ses.number < next {
			ses.end(code, why)
		}
	}
}

// endAuthority ends the user's sessions older than an authority version.
func (h *host) endAuthority(user proto.EntityID, version uint64) {
	u := h.users[user]
	if u == nil {
		return
	}
	for _, ses := range append([]*session(nil), u.sessions...) {
		if ses.authority < version {
			ses.end(proto.CodeSessionEnded, "every login of this account was ended: log in again")
		}
	}
}

// releaseSessions sends every session elsewhere.
func (h *host) releaseSessions(why *proto.Error) {
	byEdge := map[*edgeConn][]uint64{}
	for _, u := range h.users {
		for _, ses := range u.sessions {
			ses.closed = true
			ses.edge.remove(ses)
			byEdge[ses.edge] = append(byEdge[ses.edge], ses.id)
			h.s.metrics.sessions.Dec()
		}
	}
	h.users = map[proto.EntityID]*hostedUser{}
	for edge, ids := range byEdge {
		edge.send(&cellpb.HostFrame{Sessions: ids, Body: &cellpb.HostFrame_Refused{Refused: &cellpb.Refused{
			Code: uint32(why.Code), Message: why.Message,
		}}}, 50+9*len(ids))
	}
}

func (h *host) listSessions(user proto.EntityID, out *cellpb.SessionsReply) {
	for _, u := range h.users {
		out.Sessions += uint64(len(u.sessions))
		if user == 0 || u.id != user {
			continue
		}
		for _, ses := range u.sessions {
			out.Infos = append(out.Infos, &cellpb.SessionInfo{
				User: uint64(u.id), Device: ses.device, Edge: ses.edge.name, Transport: ses.transport,
				SinceMs: ses.sinceMS, SessionNumber: ses.number,
			})
		}
	}
}

// foreignBodyTimeout is how long catching up waits for the bodies of messages
// in threads owned elsewhere. After it the update goes out without the body:
// a dead cell must not hold up what others have written.
const foreignBodyTimeout = time.Second
