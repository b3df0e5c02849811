package state

import (
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// An avatar is one of the user's files, kept from collection, and takes the
// place of the one before, whose file goes.
func TestSetAvatar(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	set := func(of proto.EntityID, number uint64) *cellpb.Result {
		return b.do(&cellpb.Command{Body: &cellpb.Command_SetAvatar{SetAvatar: &cellpb.SetAvatar{User: uint64(of), Number: number}}})
	}
	first, second := b.addFile(user, 1, 100), b.addFile(user, 2, 200)
	for range 2 { // the same again changes nothing
		if r := set(user, first); r.Profile.GetAvatar() != (proto.FileID{Owner: user, Number: first}).String() || r.Profile.Changed != 1 {
			t.Fatalf("%v", r)
		}
	}
	if row := b.removeFile(user, first, 1<<60); row.File != nil {
		t.Error("the avatar was collected")
	}
	if r := set(user, 77); proto.Code(r.Code) != proto.CodeUnknownFile {
		t.Errorf("a file that is not there: %v", r)
	}
	if r := set(user+1, second); proto.Code(r.Code) != proto.CodeUnknownUser {
		t.Errorf("nobody's: %v", r)
	}
	if r := set(user, second); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	if have := b.files(&cellpb.ReadFiles{User: uint64(user)}); len(have.Files) != 1 || have.Files[0].Number != second || have.Usage.Bytes != 200 {
		t.Errorf("there are %v", have)
	}
	if r := set(user, 0); r.Profile.GetAvatar() != "" || r.Profile.Changed != 3 {
		t.Errorf("%v", r)
	}
	if have := b.files(&cellpb.ReadFiles{User: uint64(user)}); len(have.Files) != 0 || have.Usage.Bytes != 0 {
		t.Errorf("there are %v", have)
	}
}
