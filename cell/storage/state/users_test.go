package state

import (
	"fmt"
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

func login(user proto.EntityID, device, nonce string) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_LoginDevice{LoginDevice: &cellpb.LoginDevice{
		User: uint64(user), Device: device, Nonce: []byte(nonce), Platform: "test",
	}}}
}

func logout(user proto.EntityID, device string, session uint64) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_LogoutDevice{LogoutDevice: &cellpb.LogoutDevice{
		User: uint64(user), Device: device, SessionNumber: session,
	}}}
}

func confirm(user proto.EntityID, device string, pts uint64) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_ConfirmUpdates{ConfirmUpdates: &cellpb.ConfirmUpdates{
		Marks: []*cellpb.DeviceMark{{User: uint64(user), Device: device, Pts: pts}},
	}}}
}

// active are the user's devices that have not ended.
func active(b *rig, user proto.EntityID) map[string]*cellpb.Device {
	out := map[string]*cellpb.Device{}
	q := &cellpb.LeadRead{Body: &cellpb.LeadRead_User{User: &cellpb.ReadUser{User: uint64(user)}}}
	for _, d := range b.read(q).User.Devices {
		if !d.Row.Ended {
			out[d.Device] = d.Row
		}
	}
	return out
}

func TestSameAccountKeyGetsTheSameUser(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	first := b.do(createUser(1))
	again := b.do(createUser(1))
	if first.User != uint64(proto.RangeID(1).First()) || again.User != first.User || !again.Repeated {
		t.Errorf("first %v, again %v", first, again)
	}
	if other := b.do(createUser(2)); other.User != first.User+1 {
		t.Errorf("the next account got %d", other.User)
	}
	short := createUser(3)
	short.GetCreateUser().AccountKey = []byte("short")
	wantCode(t, b.do(short), proto.CodeBadRequest)
}

func TestFullRangeRefusesUsers(t *testing.T) {
	for _, r := range []proto.RangeID{0, 1, proto.RangeIDMax} {
		b := forTest(t, newRig(t, r))
		b.manual = true
		want := uint64(r.Last()-r.First()) + 1
		for i := range want {
			wantCode(t, b.do(createUser(i)), proto.CodeOK)
		}
		wantCode(t, b.do(createUser(want)), proto.CodeRangeFull)
		wantCode(t, b.do(createUser(0)), proto.CodeOK) // given before
	}
}

func TestLoginAndLogout(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	first := b.do(login(user, "phone", "n1"))
	if first.SessionNumber != 1 || first.AuthorityVersion != 1 || first.Name == "" {
		t.Errorf("login: %v", first)
	}
	if again := b.do(login(user, "phone", "n1")); again.SessionNumber != 1 || !again.Repeated {
		t.Errorf("the same login again: %v", again)
	}
	second := b.do(login(user, "phone", "n2"))
	if second.SessionNumber != 2 {
		t.Errorf("the next login: %v", second)
	}
	// A logout of the earlier session must not end the later one.
	wantCode(t, b.do(logout(user, "phone", 1)), proto.CodeOK)
	if len(active(b, user)) != 1 {
		t.Error("an old logout ended the newer session")
	}
	wantCode(t, b.do(logout(user, "phone", 2)), proto.CodeOK)
	if len(active(b, user)) != 0 {
		t.Error("the device is still active")
	}
	if third := b.do(login(user, "phone", "n3")); third.SessionNumber != 3 {
		t.Errorf("a login after logout: %v", third)
	}
	wantCode(t, b.do(login(user+1, "phone", "n")), proto.CodeUnknownUser)
	wantCode(t, b.do(login(user, "", "n")), proto.CodeBadRequest)
	wantCode(t, b.do(login(user, string(make([]byte, proto.DeviceIDBytesMax+1)), "n")), proto.CodeBadRequest)
	wantCode(t, b.do(logout(user, "tablet", 1)), proto.CodeUnknownUser)
}

func TestAtMostEightDevices(t *testing.T) {
	for _, manual := range []bool{false, true} {
		t.Run(fmt.Sprintf("uncommitted %v", manual), func(t *testing.T) {
			b := forTest(t, newRig(t, 1))
			user := b.addUser()
			b.manual = manual
			for i := range proto.DevicesMax + 3 {
				b.nowMs++
				wantCode(t, b.do(login(user, fmt.Sprint("device", i), "n")), proto.CodeOK)
			}
			devices := active(b, user)
			if len(devices) != proto.DevicesMax {
				t.Errorf("%d active devices, want %d", len(devices), proto.DevicesMax)
			}
			for _, oldest := range []string{"device0", "device1", "device2"} {
				if devices[oldest] != nil {
					t.Errorf("%s is active, a later one was ended for it", oldest)
				}
			}
			// One that is known already needs no room.
			b.nowMs++
			wantCode(t, b.do(login(user, "device5", "n2")), proto.CodeOK)
			if n := len(active(b, user)); n != proto.DevicesMax {
				t.Errorf("%d active devices after a repeated login", n)
			}
		})
	}
}

func TestAuthorityRisesOncePerNonce(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	raise := func(user proto.EntityID, nonce string) *cellpb.Result {
		return b.do(&cellpb.Command{Body: &cellpb.Command_RaiseAuthority{RaiseAuthority: &cellpb.RaiseAuthority{User: uint64(user), Nonce: []byte(nonce)}}})
	}
	for i, want := range []uint64{2, 2, 3} {
		if r := raise(user, []string{"a", "a", "b"}[i]); r.AuthorityVersion != want {
			t.Errorf("raise %d: %v, want %d", i, r, want)
		}
	}
	if r := b.do(login(user, "phone", "n")); r.AuthorityVersion != 3 {
		t.Errorf("login says authority %d", r.AuthorityVersion)
	}
	wantCode(t, raise(user+1, "a"), proto.CodeUnknownUser)
}

func TestUpdateLogIsTrimmedToWhatEveryDeviceHas(t *testing.T) {
	b, thread := pair(t)
	wantCode(t, b.do(login(thread.Low, "phone", "n")), proto.CodeOK)
	wantCode(t, b.do(login(thread.Low, "tablet", "n")), proto.CodeOK)
	b.manual = true
	const n = 2*updatesKept + 50
	for i := range n {
		b.send(thread, thread.High, b.id(0))
		if i%1000 == 0 {
			b.commit()
		}
	}
	b.commit()
	b.manual = false
	ask := func(after uint64) *cellpb.ReadResult {
		return b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: &cellpb.ReadUpdates{User: uint64(thread.Low), After: after, Limit: 1}}})
	}
	wantCode(t, b.do(confirm(thread.Low, "phone", n+1)), proto.CodeOK) // beyond the end: ignored
	wantCode(t, b.do(confirm(thread.Low, "phone", n)), proto.CodeOK)
	if ask(0).Trimmed {
		t.Error("trimmed, although one device has confirmed nothing")
	}
	wantCode(t, b.do(confirm(thread.Low, "tablet", n-10)), proto.CodeOK)
	const trimmed = n - 10 - updatesKept
	for _, crash := range []bool{false, true, false} {
		if r := ask(trimmed - 1); !r.Trimmed || r.Pts != n {
			t.Errorf("after %d: trimmed %v, newest %d", trimmed-1, r.Trimmed, r.Pts)
		}
		if r := ask(trimmed); r.Trimmed || len(r.Updates) != 1 || r.Updates[0].Pts != trimmed+1 {
			t.Errorf("after %d: %v", trimmed, r)
		}
		b.restart(crash)
	}
	if r := ask(n + 1); !r.Trimmed {
		t.Error("a place beyond the end was accepted")
	}
	// Confirmations never go back.
	wantCode(t, b.do(confirm(thread.Low, "tablet", 5)), proto.CodeOK)
	if pts := active(b, thread.Low)["tablet"].ConfirmedPts; pts != n-10 {
		t.Errorf("the confirmed place went back to %d", pts)
	}
}
