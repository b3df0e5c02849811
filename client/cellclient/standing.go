package cellclient

import (
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Standing tells whether a login still counts, by what the user's range says of
// him.
//
// Errors: [proto.CodeSessionEnded], [proto.CodeDisplaced], or why the device
// ended.
func Standing(info *cellpb.UserInfo, c Caller) error {
	if c.Authority < info.GetProfile().GetAuthorityVersion() {
		return proto.Errorf(proto.CodeSessionEnded, "every login of %s was ended: log in again", info.GetProfile().GetName())
	}
	for _, d := range info.GetDevices() {
		if d.Device != c.Device {
			continue
		}
		switch {
		case d.Row.Ended:
			return proto.SessionOver(proto.Code(d.Row.EndCode))
		case c.Session < d.Row.SessionNumber:
			return proto.Errorf(proto.CodeDisplaced, "this device has logged in anew elsewhere: log in again")
		}
		return nil
	}
	return proto.Errorf(proto.CodeSessionEnded, "this device is not known: log in again")
}
