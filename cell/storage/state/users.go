package state

import (
	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/proto/codec"
)

// updatesKept is how many confirmed updates stay in a log, and how many more
// gather before they are trimmed: a device that lost a little of its own
// state can still resume, and trimming is rare.
const updatesKept = 10_000

// user finds the counters of an entity: by cache, else by one seek for the
// last row of its log.
func (m *Machine) user(id proto.EntityID) *userCounters {
	if u := m.users[id]; u != nil {
		return u
	}
	u := &userCounters{log: new(cellpb.UpdateLog)}
	profile := new(cellpb.Profile)
	u.exists = m.get(engine.EntityKey(id, engine.TagProfile), profile)
	u.directFrom, u.changed = profile.DirectFrom, profile.Changed
	m.get(engine.EntityKey(id, engine.TagUpdateLog), u.log)
	u.pts = proto.Pts(u.log.Trimmed)
	m.lastKey(engine.TableSpan(id, engine.TagUpdate), func(key, _ []byte) {
		u.pts = max(u.pts, proto.Pts(engine.LastNumber(key)))
	})
	u.tailFrom = u.pts // no row of the batch being built is the user's
	m.users[id] = u
	return u
}

// thread finds the counters of a thread this range owns.
func (m *Machine) thread(t proto.ThreadID) *threadCounters {
	if c := m.threads[t]; c != nil {
		return c
	}
	c := &threadCounters{header: new(cellpb.ThreadHeader)}
	c.exists = m.get(engine.HeaderKey(t), c.header)
	m.lastKey(engine.EventSpan(t, 0, ^proto.Seq(0)), func(key, value []byte) {
		event := new(cellpb.StoredEvent)
		m.fail(codec.Unmarshal(value, event))
		c.seq, c.messages = proto.Seq(engine.LastNumber(key)), event.Messages
	})
	m.threads[t] = c
	return c
}

func (m *Machine) joinedThread(user proto.EntityID, t proto.ThreadID) *cellpb.JoinedThread {
	k := joinedKey{user, t}
	if j := m.joined[k]; j != nil {
		return j
	}
	j := new(cellpb.JoinedThread)
	m.get(engine.ThreadKey(user, t), j)
	m.joined[k] = j
	return j
}

// createUser gives the range's next id to an account key, the same one each
// time it is asked.
func (m *Machine) createUser(c *cellpb.CreateUser) *cellpb.Result {
	if len(c.AccountKey) != 16 {
		return refusef(proto.CodeBadRequest, "an account key has 16 bytes, not %d", len(c.AccountKey))
	}
	key := engine.AccountKeyKey(m.rng, c.AccountKey)
	row := new(cellpb.UserInfo)
	if m.get(key, row) {
		return &cellpb.Result{User: row.User, Repeated: true}
	}
	id := proto.EntityID(m.state.NextEntity)
	if !m.rng.Contains(id) {
		return refusef(proto.CodeRangeFull, "range %s has given all its ids", m.rng)
	}
	m.state.NextEntity++
	m.put(key, &cellpb.UserInfo{User: uint64(id)})
	m.put(engine.EntityKey(id, engine.TagProfile), &cellpb.Profile{
		Name: c.Name, AuthorityVersion: 1, AccountKey: c.AccountKey, CreatedMs: m.state.TimeMs,
	})
	log := &cellpb.UpdateLog{Incarnation: m.meta.Incarnation}
	m.put(engine.EntityKey(id, engine.TagUpdateLog), log)
	m.users[id] = &userCounters{exists: true, log: log}
	return &cellpb.Result{User: uint64(id), Name: c.Name}
}

// trimUpdates drops what every active device has. One that comes back after
// longer is told to resynchronise.
func (m *Machine) trimUpdates(user proto.EntityID, u *userCounters) {
	confirmed := uint64(u.pts)
	since := m.state.TimeMs - proto.DeviceActive.Milliseconds()
	m.eachDevice(user, func(_ string, d *cellpb.Device) {
		away := m.by(rulesForgetAway) && max(d.SeenMs, d.ConfirmedMs, d.LoginMs) < since
		if !d.Ended && !away {
			confirmed = min(confirmed, d.ConfirmedPts)
		}
	})
	if confirmed < u.log.Trimmed+2*updatesKept {
		return
	}
	upTo := confirmed - updatesKept
	m.fail(m.batch.DeleteRange(engine.UpdateKey(user, proto.Pts(u.log.Trimmed+1)), engine.UpdateKey(user, proto.Pts(upTo+1)), nil))
	u.log.Trimmed = upTo
	m.put(engine.EntityKey(user, engine.TagUpdateLog), u.log)
}
