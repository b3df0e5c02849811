package state

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	multi       = cellpb.SessionPolicy_SESSION_POLICY_MULTI
	perPlatform = cellpb.SessionPolicy_SESSION_POLICY_PER_PLATFORM
	single      = cellpb.SessionPolicy_SESSION_POLICY_SINGLE
)

func loginAs(user proto.EntityID, device, platform, nonce string, policy cellpb.SessionPolicy) *cellpb.Command {
	c := login(user, device, nonce)
	c.GetLoginDevice().Platform, c.GetLoginDevice().Policy = platform, policy
	return c
}

func raise(user proto.EntityID, nonce string) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_RaiseAuthority{RaiseAuthority: &cellpb.RaiseAuthority{User: uint64(user), Nonce: []byte(nonce)}}}
}

func deviceRow(b *rig, user proto.EntityID, device string) *cellpb.Device {
	b.t.Helper()
	b.commit()
	d := new(cellpb.Device)
	found, err := read(b.db, engine.DeviceKey(user, device), d)
	if err != nil {
		b.t.Fatal(err)
	}
	if !found {
		return nil
	}
	return d
}

func TestPoliciesSayWhichDevicesStay(t *testing.T) {
	before := []struct{ device, platform string }{{"phone", "ios"}, {"web", "web"}, {"old phone", "ios"}}
	for _, one := range []struct {
		policy    cellpb.SessionPolicy
		device    string
		platform  string
		displaced []string
	}{
		{multi, "new", "ios", nil},
		{multi, "phone", "ios", nil},
		{perPlatform, "new", "ios", []string{"old phone", "phone"}},
		{perPlatform, "new", "linux", nil},
		{perPlatform, "phone", "ios", []string{"old phone"}}, // never itself
		{single, "new", "ios", []string{"old phone", "phone", "web"}},
		{single, "phone", "ios", []string{"old phone", "web"}},
	} {
		t.Run(fmt.Sprint(one.policy, " ", one.device, " ", one.platform), func(t *testing.T) {
			b := forTest(t, newRig(t, 1))
			user := b.addUser()
			for i, d := range before {
				wantCode(t, b.do(loginAs(user, d.device, d.platform, fmt.Sprint("n", i), multi)), proto.CodeOK)
			}
			r := b.do(loginAs(user, one.device, one.platform, "new", one.policy))
			wantCode(t, r, proto.CodeOK)
			if slices.Sort(r.Displaced); !slices.Equal(r.Displaced, one.displaced) {
				t.Errorf("displaced %v, want %v", r.Displaced, one.displaced)
			}
			devices := active(b, user)
			for _, name := range one.displaced {
				if d := deviceRow(b, user, name); devices[name] != nil || proto.Code(d.EndCode) != proto.CodeDisplaced {
					t.Errorf("%s is %v", name, d)
				}
			}
			if devices[one.device] == nil {
				t.Error("the newer one is not there")
			}
		})
	}
}

func TestALateRepetitionDisplacesNobody(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	first := loginAs(user, "phone", "p", "first", single)
	wantCode(t, b.do(first), proto.CodeOK)
	wantCode(t, b.do(loginAs(user, "tablet", "p", "second", single)), proto.CodeOK)
	wantCode(t, b.do(first), proto.CodeDisplaced) // another device is newer
	if d := active(b, user); len(d) != 1 || d["tablet"] == nil {
		t.Fatalf("%v", d)
	}
	// The same device, many logins later.
	for i := range pastNoncesMax {
		wantCode(t, b.do(login(user, "tablet", fmt.Sprint("again", i))), proto.CodeOK)
	}
	number := active(b, user)["tablet"].SessionNumber
	wantCode(t, b.do(loginAs(user, "tablet", "p", "second", single)), proto.CodeDisplaced)
	if got := active(b, user)["tablet"].SessionNumber; got != number {
		t.Errorf("session %d became %d", number, got)
	}
	if n := len(deviceRow(b, user, "tablet").PastNonces); n != pastNoncesMax {
		t.Errorf("%d earlier nonces are kept", n)
	}
	// What was ended otherwise stays ended too.
	wantCode(t, b.do(logout(user, "tablet", number)), proto.CodeOK)
	wantCode(t, b.do(login(user, "tablet", fmt.Sprint("again", pastNoncesMax-1))), proto.CodeSessionEnded)
	wantCode(t, b.do(login(user, "tablet", "anew")), proto.CodeOK)
	wantCode(t, b.do(raise(user, "r")), proto.CodeOK)
	wantCode(t, b.do(login(user, "tablet", "anew")), proto.CodeSessionEnded)
	if len(active(b, user)) != 0 {
		t.Error("a device is active after everything was ended")
	}
}

func TestEndedDevicesAreForgottenButTheirNumbersAreNot(t *testing.T) {
	for _, manual := range []bool{false, true} {
		b := forTest(t, newRig(t, 1))
		user := b.addUser()
		b.manual = manual
		for range 5 { // "first" gets the greatest number
			wantCode(t, b.do(login(user, "first", fmt.Sprint("n", b.nowMs))), proto.CodeOK)
			b.nowMs++
		}
		next := func(i int) *cellpb.Result {
			b.nowMs++
			return b.do(loginAs(user, fmt.Sprint("d", i), "p", fmt.Sprint("d", i), single))
		}
		i := 0
		for ; i < proto.EndedDevicesMax; i++ {
			wantCode(t, next(i), proto.CodeOK)
		}
		if deviceRow(b, user, "first") == nil {
			t.Fatal("a device that ended just now is forgotten")
		}
		wantCode(t, next(i), proto.CodeRateLimited) // all too young
		wantCode(t, b.do(loginAs(user, "d7", "p", "known", single)), proto.CodeOK)
		b.nowMs += proto.EndedDeviceLifetime.Milliseconds()
		wantCode(t, next(i), proto.CodeOK)
		if deviceRow(b, user, "first") != nil {
			t.Error("the device that ended first is still there")
		}
		q := &cellpb.LeadRead{Body: &cellpb.LeadRead_User{User: &cellpb.ReadUser{User: uint64(user)}}}
		if n := len(b.read(q).User.Devices); n != proto.EndedDevicesKept+2 { // and the two newest logins
			t.Errorf("%d rows are left", n)
		}
		if r := b.do(login(user, "first", "new")); r.SessionNumber != 6 {
			t.Errorf("the forgotten device goes on with session %d, want 6", r.SessionNumber)
		}
	}
}

// deviceModel is what the devices of one user should be.
type deviceModel struct {
	t       *rapid.T
	b       *rig
	user    proto.EntityID
	active  map[string]modelDevice
	numbers map[string]uint64 // the greatest ever given
	logins  []modelLogin
	clock   int
	version uint64
}

type modelDevice struct {
	platform string
	order    int
}

type modelLogin struct {
	command *cellpb.Command
	number  uint64
	version uint64
}

func (m *deviceModel) draw(n int, label string) int { return rapid.IntRange(0, n-1).Draw(m.t, label) }

func (m *deviceModel) login() {
	m.clock++
	m.b.nowMs++
	device, platform := fmt.Sprint("d", m.draw(12, "device")), fmt.Sprint("p", m.draw(3, "platform"))
	policy := cellpb.SessionPolicy(m.draw(3, "policy"))
	c := loginAs(m.user, device, platform, fmt.Sprint("nonce", m.clock), policy)
	r := m.b.do(c)
	if r.Code != 0 || r.Repeated || r.SessionNumber <= m.numbers[device] || r.AuthorityVersion != m.version {
		m.t.Fatalf("login: %v after session %d", r, m.numbers[device])
	}
	m.numbers[device] = r.SessionNumber
	var gone []string
	delete(m.active, device)
	for name, d := range m.active {
		if policy == single || policy == perPlatform && d.platform == platform {
			gone = append(gone, name)
		}
	}
	for _, name := range gone {
		delete(m.active, name)
	}
	for len(m.active) >= proto.DevicesMax {
		oldest := ""
		for name, d := range m.active {
			if oldest == "" || d.order < m.active[oldest].order {
				oldest = name
			}
		}
		gone = append(gone, oldest)
		delete(m.active, oldest)
	}
	slices.Sort(gone)
	if slices.Sort(r.Displaced); !slices.Equal(gone, r.Displaced) {
		m.t.Fatalf("displaced %v, want %v", r.Displaced, gone)
	}
	m.active[device] = modelDevice{platform, m.clock}
	m.logins = append(m.logins, modelLogin{c, r.SessionNumber, m.version})
}

// again repeats an earlier login: the same session, or none at all.
func (m *deviceModel) again() {
	if len(m.logins) == 0 {
		return
	}
	recent := m.logins[max(0, len(m.logins)-pastNoncesMax):]
	l := recent[m.draw(len(recent), "login")]
	device := l.command.GetLoginDevice().Device
	r := m.b.do(l.command)
	_, on := m.active[device]
	switch current := on && m.numbers[device] == l.number; {
	case current && (r.Code != 0 || !r.Repeated || r.SessionNumber != l.number):
		m.t.Fatalf("the same login again: %v", r)
	case !current && proto.Code(r.Code) != proto.CodeDisplaced && proto.Code(r.Code) != proto.CodeSessionEnded:
		m.t.Fatalf("a login that is over came again: %v", r)
	}
}

func (m *deviceModel) step() {
	switch m.draw(8, "action") {
	case 0, 1, 2:
		m.login()
	case 3:
		m.again()
	case 4:
		device := fmt.Sprint("d", m.draw(12, "ended"))
		if m.numbers[device] > 0 {
			number := m.numbers[device] - uint64(m.draw(2, "older"))
			m.b.do(logout(m.user, device, number))
			if number == m.numbers[device] {
				delete(m.active, device)
			}
		}
	case 5:
		if m.draw(4, "raise") == 0 {
			m.clock++
			m.version++
			m.b.do(raise(m.user, fmt.Sprint("raise", m.clock)))
			clear(m.active)
		}
	case 6:
		m.b.nowMs += []int64{1, 60_000, 11 * 60_000}[m.draw(3, "time")]
	case 7:
		switch m.draw(3, "disturbance") {
		case 0:
			m.b.manual = !m.b.manual
		case 1:
			m.b.restart(m.draw(2, "crash") == 0)
		case 2:
			m.b.commit()
			m.b.m.forgetCaches()
		}
	}
}

func TestDevicesAgreeWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newRig(t, 1)
		defer func() { b.close() }()
		m := &deviceModel{t: t, b: b, user: b.addUser(), active: map[string]modelDevice{}, numbers: map[string]uint64{}, version: 1}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			m.step()
		}
		have, want := slices.Sorted(maps.Keys(active(b, m.user))), slices.Sorted(maps.Keys(m.active))
		if !slices.Equal(have, want) {
			t.Fatalf("active are %v, want %v", have, want)
		}
		checkBatching(t, b)
	})
}
