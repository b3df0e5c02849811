package sim

import (
	"fmt"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// mingle does something besides writing: logs in, confirms, marks, asks to be
// friends, changes a card. Nobody waits for the answers: what is judged is that every
// replica applies them alike, and that what they log for others is dense.
//
// Nobody becomes a friend and nobody is blocked: hello messages and refusals
// are not among what the history knows.
func (d *device) mingle() {
	w := d.w
	cmd, r := new(cellpb.Command), d.user.Range()
	peer := pick(w, w.people).user
	if peer == d.user {
		peer++ // as likely nobody
	}
	thread := proto.DirectThread(d.user, peer)
	switch w.rng.IntN(6) {
	case 0, 1:
		mark := &cellpb.DeviceMark{User: uint64(d.user), Device: d.name, Pts: uint64(d.pts), Seen: w.chance(10)}
		cmd.Body = &cellpb.Command_ConfirmUpdates{ConfirmUpdates: &cellpb.ConfirmUpdates{Marks: []*cellpb.DeviceMark{mark}}}
	case 2:
		seq := uint64(1 + w.rng.IntN(20))
		cmd.Body = &cellpb.Command_MarkThread{MarkThread: &cellpb.MarkThread{User: uint64(d.user), Thread: thread.String(), ReadSeq: seq, ReadMessages: seq}}
	case 3:
		nick := fmt.Sprint("nick ", w.rng.IntN(1000))
		cmd.Body = &cellpb.Command_SetProfile{SetProfile: &cellpb.SetProfile{User: uint64(d.user), Change: &clientpb.SetProfile{Nick: &nick}}}
	case 4:
		id := d.newID()
		cmd.Body = &cellpb.Command_LoginDevice{LoginDevice: &cellpb.LoginDevice{User: uint64(d.user), Device: d.name, Nonce: id[:], Platform: "sim"}}
	default:
		// Only the lower id asks, so that requests never cross.
		actions := []clientpb.ContactAction{clientpb.ContactAction_CONTACT_ACTION_REQUEST, clientpb.ContactAction_CONTACT_ACTION_REMOVE}
		if d.user > peer {
			actions = []clientpb.ContactAction{clientpb.ContactAction_CONTACT_ACTION_IGNORE}
		}
		id := d.newID()
		cmd.Body = &cellpb.Command_ChangeContact{ChangeContact: &cellpb.ChangeContact{
			Thread: thread.String(), From: uint64(d.user), Action: pick(w, actions), ClientId: id[:], Greeting: fmt.Sprint("hello ", w.ids),
		}}
		r = thread.OwnerRange()
	}
	w.count("mingled")
	w.request(outside, r, cmd, func(_ *cellpb.Result, a *cellpb.Applied) { w.push(a) })
}
