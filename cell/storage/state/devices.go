package state

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// pastNoncesMax bounds the earlier logins of a device that are recognised when
// they come again late.
const pastNoncesMax = 8

// loginDevice gives a device a session number above its last one, and ends the
// devices that the policy does not let stay beside it. A login that was
// applied before gets the same answer again, unless a newer one has taken its
// place: then it is refused, for the newer must not be displaced by the older.
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
	result := func() *cellpb.Result {
		return &cellpb.Result{
			User: c.User, SessionNumber: d.SessionNumber, AuthorityVersion: profile.AuthorityVersion,
			Pts: uint64(u.pts), Name: profile.Name,
		}
	}
	if len(c.Nonce) > 0 {
		same := func(nonce []byte) bool { return bytes.Equal(nonce, c.Nonce) }
		switch {
		case same(d.Nonce) && d.Ended:
			return refuse(proto.SessionOver(proto.Code(d.EndCode)))
		case same(d.Nonce):
			again := result()
			again.Repeated = true
			return again
		case slices.ContainsFunc(d.PastNonces, same):
			return refusef(proto.CodeDisplaced, "this device has logged in anew since: log in again")
		}
	}
	if !known && !m.forgetDevices(user, profile) {
		return refusef(proto.CodeRateLimited, "too many devices of this account have logged in and ended lately: try again in %s", proto.EndedDeviceLifetime)
	}
	if !known || d.Ended {
		d.ConfirmedPts = max(d.ConfirmedPts, uint64(u.pts))
	}
	if len(d.Nonce) > 0 {
		d.PastNonces = append(d.PastNonces, d.Nonce)
		d.PastNonces = d.PastNonces[max(0, len(d.PastNonces)-pastNoncesMax):]
	}
	d.SessionNumber = max(d.SessionNumber, profile.SessionFloor) + 1
	d.RefreshHash, d.Platform, d.Nonce, d.Ended = c.RefreshHash, c.Platform, c.Nonce, false
	d.RefreshFamily, d.NextHashes, d.AuthorityVersion = c.RefreshFamily, nil, profile.AuthorityVersion
	d.LoginMs, d.LoginPts = m.state.TimeMs, uint64(u.pts)
	d.EndCode, d.EndedMs, d.SeenMs = 0, 0, 0
	m.put(key, d)
	out := result()
	out.Displaced = m.displaceDevices(user, c)
	return out
}

// displaceDevices ends the devices that do not stay beside the one that has
// just logged in, and names them.
func (m *Machine) displaceDevices(user proto.EntityID, c *cellpb.LoginDevice) []string {
	var others, displaced []string
	rows := map[string]*cellpb.Device{}
	m.eachDevice(user, func(name string, d *cellpb.Device) {
		if d.Ended || name == c.Device {
			return
		}
		others = append(others, name)
		rows[name] = d
	})
	switch c.Policy {
	case cellpb.SessionPolicy_SESSION_POLICY_SINGLE:
		displaced = others
	case cellpb.SessionPolicy_SESSION_POLICY_PER_PLATFORM:
		for _, name := range others {
			if rows[name].Platform == c.Platform {
				displaced = append(displaced, name)
			}
		}
	}
	// Whatever the policy, there are at most so many: the one that logged in
	// longest ago goes, of two the first by name.
	stay := slices.DeleteFunc(slices.Clone(others), func(name string) bool { return slices.Contains(displaced, name) })
	slices.SortStableFunc(stay, func(a, b string) int { return cmp.Compare(rows[a].LoginMs, rows[b].LoginMs) })
	displaced = append(displaced, stay[:max(0, len(stay)+1-proto.DevicesMax)]...)
	for _, name := range displaced {
		m.endDevice(user, name, rows[name], proto.CodeDisplaced)
	}
	return displaced
}

// endDevice ends a device. Its row stays for a while, to say why.
func (m *Machine) endDevice(user proto.EntityID, name string, d *cellpb.Device, why proto.Code) {
	d.Ended, d.EndCode, d.EndedMs = true, uint32(why), m.state.TimeMs
	d.RefreshHash, d.RefreshFamily, d.NextHashes = nil, nil, nil
	m.put(engine.DeviceKey(user, name), d)
}

// forgetDevices makes room for the row of a new device: it removes the ended
// ones that ended longest ago, past those that are kept. The greatest session
// number of them stays in the profile, so that a device of that name goes on
// above it. False: there are too many that are too young to be forgotten.
func (m *Machine) forgetDevices(user proto.EntityID, profile *cellpb.Profile) bool {
	var ended []string
	rows := map[string]*cellpb.Device{}
	m.eachDevice(user, func(name string, d *cellpb.Device) {
		if d.Ended {
			ended = append(ended, name)
			rows[name] = d
		}
	})
	slices.SortStableFunc(ended, func(a, b string) int { return cmp.Compare(rows[a].EndedMs, rows[b].EndedMs) })
	kept := len(ended)
	for _, name := range ended {
		if kept <= proto.EndedDevicesKept || rows[name].EndedMs > m.state.TimeMs-proto.EndedDeviceLifetime.Milliseconds() {
			break
		}
		profile.SessionFloor = max(profile.SessionFloor, rows[name].SessionNumber)
		m.remove(engine.DeviceKey(user, name))
		kept--
	}
	if kept < len(ended) {
		m.put(engine.EntityKey(user, engine.TagProfile), profile)
	}
	return kept < proto.EndedDevicesMax
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
	d := new(cellpb.Device)
	if !m.rng.Contains(user) || !m.get(engine.DeviceKey(user, c.Device), d) {
		return refusef(proto.CodeUnknownUser, "user %s has no device %q", user, c.Device)
	}
	if c.SessionNumber == d.SessionNumber && !d.Ended {
		m.endDevice(user, c.Device, d, proto.CodeLoggedOut)
	}
	return &cellpb.Result{SessionNumber: d.SessionNumber}
}

// raiseAuthority ends every token of the user given out before, and every
// device.
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
		m.eachDevice(user, func(name string, d *cellpb.Device) {
			if !d.Ended {
				m.endDevice(user, name, d, proto.CodeSessionEnded)
			}
		})
	}
	return &cellpb.Result{AuthorityVersion: p.AuthorityVersion}
}
