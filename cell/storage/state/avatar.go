package state

import (
	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// setAvatar makes a file of the user his avatar and tells the friends. The file
// that was it goes: nobody else refers to it.
func (m *Machine) setAvatar(c *cellpb.SetAvatar, out *cellpb.Applied) *cellpb.Result {
	user := proto.EntityID(c.User)
	key := engine.EntityKey(user, engine.TagProfile)
	p := new(cellpb.Profile)
	if !m.rng.Contains(user) || !m.get(key, p) {
		return refusef(proto.CodeUnknownUser, "there is no user %s", user)
	}
	avatar := ""
	if c.Number != 0 {
		id := proto.FileID{Owner: user, Number: c.Number}
		file := new(cellpb.StoredFile)
		if !m.get(engine.FileKey(user, c.Number), file) {
			return refusef(proto.CodeUnknownFile, "there is no file %s", id)
		}
		avatar = id.String()
		// A claim keeps it from being collected.
		file.ClaimedMs = max(1, m.state.TimeMs)
		m.put(engine.FileKey(user, c.Number), file)
	}
	before := p.Avatar
	if before == avatar {
		return &cellpb.Result{Profile: p}
	}
	p.Avatar = avatar
	p.Changed++
	m.put(key, p)
	m.user(user).changed = p.Changed
	m.tellFriends(user, cardOf(user, p), p.Changed, out)
	if old, err := proto.ParseFileID(before); err == nil && old.Owner == user {
		m.removeFile(&cellpb.RemoveFile{User: c.User, Number: old.Number})
	}
	return &cellpb.Result{Profile: p}
}
