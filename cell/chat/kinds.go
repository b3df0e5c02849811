package chat

import (
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// needsEvent tells whether an update refers to an event of a thread, which
// must be fetched where it was not at hand. The other kinds are complete.
func needsEvent(up *cellpb.LoggedUpdate) bool {
	return up.Event == nil && up.Update.Body == nil
}

// wireUpdate is an update as clients see it.
func wireUpdate(up *cellpb.LoggedUpdate) *clientpb.Update {
	out := &clientpb.Update{Pts: up.Pts}
	switch body := up.Update.Body.(type) {
	case *cellpb.StoredUpdate_Mark:
		out.Body = &clientpb.Update_Mark{Mark: &clientpb.Mark{
			Thread: up.Update.Thread, Seq: up.Update.Seq, User: body.Mark.User, Read: body.Mark.Read, TimeMs: body.Mark.TimeMs,
		}}
	case *cellpb.StoredUpdate_Contact:
		out.Body = &clientpb.Update_Contact{Contact: &clientpb.ContactEvent{
			Action: body.Contact.Action, By: body.Contact.By, Contact: body.Contact.Contact,
		}}
	case *cellpb.StoredUpdate_Profile:
		out.Body = &clientpb.Update_Profile{Profile: body.Profile}
	default:
		out.Body = &clientpb.Update_Event{Event: wireEvent(up.Update.Thread, up.Update.Seq, up.Event)}
	}
	return out
}

// updateBytes is about what an update takes in a frame.
func updateBytes(up *cellpb.LoggedUpdate) int {
	if up.Update.GetBody() != nil {
		return 50 + codec.Size(up.Update)
	}
	return 150 + bodyBytes(up.Event)
}

// bodyBytes is about what the body of an event takes.
func bodyBytes(e *cellpb.StoredEvent) int {
	return len(e.GetText().GetText()) + len(e.GetLocation().GetName()) + len(e.GetCard().GetName()) + codec.Size(e.GetFile()) + codec.Size(e.GetLive())
}

// channelRowBytes is about what a row takes on its way.
func channelRowBytes(row *cellpb.ChannelRow) int {
	if row.GetMessage() != nil {
		return 100 + bodyBytes(row.Event)
	}
	return 20 + codec.Size(row)
}
