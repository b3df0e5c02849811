package state

import (
	"bytes"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
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
		m.fail(pb.Unmarshal(value, event))
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

// loginDevice gives a device a session number above its last one.
func (m *Machine) loginDevice(c *cellpb.LoginDevice) *cellpb.Result {
	user := proto.EntityID(c.User)
	profile := new(cellpb.Profile)
	if !m.rng.Contains(user) || !m.get(engine.EntityKey(user, engine.TagProfile), profile) {
		return refusef(proto.CodeUnknownUser, "there is no user %s", user)
	}
	if c.Device == "" || len(c.Device) > proto.DeviceIDBytesMax {
		return refusef(proto.CodeBadRequest, "a device name has 1 to %d bytes", proto.DeviceIDBytesMax)
	}
	u := m.user(user)
	key := engine.DeviceKey(user, c.Device)
	d := new(cellpb.Device)
	known := m.get(key, d)
	done := func(repeated bool) *cellpb.Result {
		return &cellpb.Result{
			User: c.User, SessionNumber: d.SessionNumber, AuthorityVersion: profile.AuthorityVersion,
			Pts: uint64(u.pts), Name: profile.Name, Repeated: repeated,
		}
	}
	if known && !d.Ended && len(c.Nonce) > 0 && bytes.Equal(d.Nonce, c.Nonce) {
		return done(true)
	}
	if !known || d.Ended {
		m.makeRoomForDevice(user, c.Device)
		d.ConfirmedPts = max(d.ConfirmedPts, uint64(u.pts))
	}
	d.SessionNumber++
	d.RefreshHash, d.Platform, d.Nonce, d.Ended = c.RefreshHash, c.Platform, c.Nonce, false
	d.RefreshFamily, d.NextHashes, d.AuthorityVersion = c.RefreshFamily, nil, profile.AuthorityVersion
	d.LoginMs, d.LoginPts = m.state.TimeMs, uint64(u.pts)
	m.put(key, d)
	return done(false)
}

// makeRoomForDevice ends the device that logged in longest ago when the user
// has [proto.DevicesMax] of them.
func (m *Machine) makeRoomForDevice(user proto.EntityID, next string) {
	var oldest string
	var oldestRow *cellpb.Device
	active := 0
	m.eachDevice(user, func(name string, d *cellpb.Device) {
		if d.Ended || name == next {
			return
		}
		active++
		if oldestRow == nil || d.LoginMs < oldestRow.LoginMs {
			oldest, oldestRow = name, d
		}
	})
	if active < proto.DevicesMax {
		return
	}
	oldestRow.Ended = true
	m.put(engine.DeviceKey(user, oldest), oldestRow)
}

// eachDevice visits the devices by name, as the batch being built will leave
// them.
func (m *Machine) eachDevice(user proto.EntityID, visit func(string, *cellpb.Device)) {
	span := engine.TableSpan(user, engine.TagDevice)
	names := map[string]bool{}
	var order []string
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		m.fail(err)
		return
	}
	for ok := it.First(); ok; ok = it.Next() {
		order = append(order, string(it.Key()[len(span.Start):]))
		names[order[len(order)-1]] = true
	}
	m.fail(it.Error())
	m.fail(it.Close())
	for key := range m.dirty {
		if len(key) > len(span.Start) && key[:len(span.Start)] == string(span.Start) && !names[key[len(span.Start):]] {
			order = append(order, key[len(span.Start):])
		}
	}
	slices.Sort(order)
	for _, name := range order {
		d := new(cellpb.Device)
		if m.get(engine.DeviceKey(user, name), d) {
			visit(name, d)
		}
	}
}

// logoutDevice ends a device, unless it has logged in anew since.
func (m *Machine) logoutDevice(c *cellpb.LogoutDevice) *cellpb.Result {
	user := proto.EntityID(c.User)
	key := engine.DeviceKey(user, c.Device)
	d := new(cellpb.Device)
	if !m.rng.Contains(user) || !m.get(key, d) {
		return refusef(proto.CodeUnknownUser, "user %s has no device %q", user, c.Device)
	}
	if c.SessionNumber == d.SessionNumber && !d.Ended {
		d.Ended = true
		m.put(key, d)
	}
	return &cellpb.Result{SessionNumber: d.SessionNumber}
}

// raiseAuthority ends every token of the user given out before.
func (m *Machine) raiseAuthority(c *cellpb.RaiseAuthority) *cellpb.Result {
	user := proto.EntityID(c.User)
	key := engine.EntityKey(user, engine.TagProfile)
	p := new(cellpb.Profile)
	if !m.rng.Contains(user) || !m.get(key, p) {
		return refusef(proto.CodeUnknownUser, "there is no user %s", user)
	}
	if len(c.Nonce) == 0 || !bytes.Equal(p.AuthorityNonce, c.Nonce) {
		p.AuthorityVersion++
		p.AuthorityNonce = c.Nonce
		m.put(key, p)
	}
	return &cellpb.Result{AuthorityVersion: p.AuthorityVersion}
}

func (m *Machine) trimUpdates(user proto.EntityID, u *userCounters) {
	confirmed := uint64(u.pts)
	m.eachDevice(user, func(_ string, d *cellpb.Device) {
		if !d.Ended {
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
