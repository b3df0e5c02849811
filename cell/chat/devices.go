package chat

import (
	"cmp"
	"crypto/rand"
	"slices"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// everySession is above every session number.
const everySession = ^uint64(0)

// deviceRequest serves the frames about the caller's own devices. False: it is
// none of them.
func (ses *session) deviceRequest(f *clientpb.ClientFrame) bool {
	switch body := f.Body.(type) {
	case *clientpb.ClientFrame_ListDevices:
		ses.listDevices(f.Id)
	case *clientpb.ClientFrame_EndDevice:
		ses.endOneDevice(f.Id, body.EndDevice.GetDevice())
	case *clientpb.ClientFrame_EndAllDevices:
		ses.endAllDevices(f.Id)
	default:
		return false
	}
	return true
}

// readDevices reads the caller's devices that are logged in, the newest login
// first.
func (ses *session) readDevices(id uint64, done func([]*cellpb.DeviceInfo)) {
	ses.host.readUser(ses.user.id, func(info *cellpb.UserInfo, err *proto.Error) {
		if err != nil {
			ses.fail(id, err)
			return
		}
		active := slices.DeleteFunc(info.Devices, func(d *cellpb.DeviceInfo) bool {
			return d.Row.Ended || d.Row.AuthorityVersion < info.Profile.GetAuthorityVersion()
		})
		slices.SortStableFunc(active, func(a, b *cellpb.DeviceInfo) int { return cmp.Compare(b.Row.LoginMs, a.Row.LoginMs) })
		done(active)
	})
}

func (ses *session) listDevices(id uint64) {
	ses.readDevices(id, func(devices []*cellpb.DeviceInfo) {
		out := &clientpb.Devices{}
		for _, d := range devices {
			out.Devices = append(out.Devices, &clientpb.DeviceRow{
				Device: d.Device, Platform: d.Row.Platform, LoginMs: d.Row.LoginMs, SeenMs: d.Row.SeenMs,
				Own: d.Device == ses.device,
				Connected: slices.ContainsFunc(ses.user.sessions, func(o *session) bool {
					return o.attached && o.device == d.Device
				}),
			})
		}
		ses.answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_Devices{Devices: out}}))
	})
}

// endOneDevice logs one of the caller's devices out; empty: the caller's own.
func (ses *session) endOneDevice(id uint64, device string) {
	if device == "" || device == ses.device {
		ses.logOut(id, ses.device, ses.number)
		return
	}
	ses.readDevices(id, func(devices []*cellpb.DeviceInfo) {
		i := slices.IndexFunc(devices, func(d *cellpb.DeviceInfo) bool { return d.Device == device })
		if i < 0 {
			ses.fail(id, proto.Errorf(proto.CodeBadRequest, "no device %.64q of yours is logged in: list them to see which are", device))
			return
		}
		ses.logOut(id, device, devices[i].Row.SessionNumber)
	})
}

func (ses *session) logOut(id uint64, device string, number uint64) {
	h := ses.host
	c := &cellpb.LogoutDevice{User: uint64(ses.user.id), Device: device, SessionNumber: number}
	h.propose(&cellpb.Command{Body: &cellpb.Command_LogoutDevice{LogoutDevice: c}}, 100, func(r *cellpb.Result, err *proto.Error) {
		if ses.done(id, r, err) {
			h.endDevice(ses.user.id, device, number+1, proto.CodeLoggedOut, "this device was logged out")
		}
	})
}

// endAllDevices ends every login of the caller, this one too.
func (ses *session) endAllDevices(id uint64) {
	h := ses.host
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails
	c := &cellpb.RaiseAuthority{User: uint64(ses.user.id), Nonce: nonce}
	h.propose(&cellpb.Command{Body: &cellpb.Command_RaiseAuthority{RaiseAuthority: c}}, 100, func(r *cellpb.Result, err *proto.Error) {
		if ses.done(id, r, err) {
			h.endAuthority(ses.user.id, r.AuthorityVersion)
		}
	})
}

// done answers a request that has nothing to say but its failure, and tells
// whether it succeeded. The answer goes out before a session that ends with it.
func (ses *session) done(id uint64, r *cellpb.Result, err *proto.Error) bool {
	if err == nil && r.Code != 0 {
		err = proto.AsError(proto.FromWire(r.Code, r.Message, r.RetryMs))
	}
	if err != nil {
		ses.fail(id, err)
		return false
	}
	ses.answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_Done{Done: new(clientpb.Done)}}))
	return true
}

// loggedIn ends the sessions that a login has displaced: earlier ones of the
// device, and those of the devices that the policy has ended. A device that
// has logged in since is not among them: its result comes after this one, and
// only then can it attach.
func (h *host) loggedIn(c *cellpb.LoginDevice, r *cellpb.Result) {
	user := proto.EntityID(c.User)
	h.endDevice(user, c.Device, r.SessionNumber, proto.CodeDisplaced, "this device has logged in anew")
	for _, device := range r.Displaced {
		h.endDevice(user, device, everySession, proto.CodeDisplaced, proto.DisplacedReason)
	}
}

// closeSessions closes a user's connections, which may come back at once.
func (h *host) closeSessions(c *cellpb.CloseSessions, done func(*cellpb.Result, *proto.Error)) {
	out := new(cellpb.Result)
	if u := h.users[proto.EntityID(c.User)]; u != nil {
		for _, ses := range slices.Clone(u.sessions) {
			ses.end(proto.CodeDisconnected, c.Message)
			out.Closed++
		}
	}
	done(out, nil)
}
