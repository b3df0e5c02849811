package state

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const quota = 1000

func nonce(n uint64) []byte { return fmt.Appendf(nil, "%016d", n) }

func (b *rig) createFile(user proto.EntityID, n, size uint64, parts ...uint64) *cellpb.Result {
	b.t.Helper()
	return b.do(&cellpb.Command{Body: &cellpb.Command_CreateFile{CreateFile: &cellpb.CreateFile{
		User: uint64(user), Nonce: nonce(n), Size: size, Quota: quota, Parts: parts,
	}}})
}

func stored(size uint64, blob string) *cellpb.StoredFile {
	return &cellpb.StoredFile{Name: "a.txt", Size: size, Type: "text/plain", Blake3: make([]byte, 32), Cell: "c1", Node: "n1", Blob: blob, KeyId: "k", Key: []byte("wrapped")}
}

func (b *rig) completeFile(user proto.EntityID, number, size uint64, parts ...uint64) *cellpb.Result {
	b.t.Helper()
	return b.do(&cellpb.Command{Body: &cellpb.Command_CompleteFile{CompleteFile: &cellpb.CompleteFile{
		User: uint64(user), Number: number, File: stored(size, fmt.Sprint("blob", number)), Parts: parts,
	}}})
}

func (b *rig) removeFile(user proto.EntityID, number uint64, unsentBefore int64) *cellpb.FileRow {
	b.t.Helper()
	r := b.do(&cellpb.Command{Body: &cellpb.Command_RemoveFile{RemoveFile: &cellpb.RemoveFile{
		User: uint64(user), Number: number, UnsentBeforeMs: unsentBefore,
	}}})
	if r.Code != 0 {
		b.t.Fatalf("remove: %s", r.Message)
	}
	return r.File
}

func (b *rig) claimFile(user proto.EntityID, number uint64) *cellpb.Result {
	b.t.Helper()
	return b.do(&cellpb.Command{Body: &cellpb.Command_ClaimFile{ClaimFile: &cellpb.ClaimFile{User: uint64(user), Number: number}}})
}

func (b *rig) files(q *cellpb.ReadFiles) *cellpb.Files {
	b.t.Helper()
	return b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Files{Files: q}}).Files
}

// addFile makes a complete file.
func (b *rig) addFile(user proto.EntityID, n, size uint64) uint64 {
	b.t.Helper()
	r := b.createFile(user, n, size)
	if r.Code != 0 {
		b.t.Fatalf("create: %s", r.Message)
	}
	if r := b.completeFile(user, r.File.Number, size); r.Code != 0 {
		b.t.Fatalf("complete: %s", r.Message)
	}
	return r.File.Number
}

func fileMessage(thread proto.ThreadID, from proto.EntityID, id proto.ClientMsgID, number uint64) *cellpb.AppendMessage {
	return &cellpb.AppendMessage{Thread: thread.String(), From: uint64(from), ClientMsgId: id[:], File: &clientpb.FileMessage{
		File: proto.FileID{Owner: from, Number: number}.String(), Name: "a.txt", Size: 5, Type: "text/plain", Blake3: make([]byte, 32),
	}}
}

func TestUploadBecomesAFileOnce(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	first := b.createFile(user, 1, 400)
	again := b.createFile(user, 1, 400)
	if first.File.Number != 1 || again.File.Number != 1 || !again.Repeated {
		t.Fatalf("the same nonce gave %d, then %d", first.File.Number, again.File.Number)
	}
	if f := b.files(&cellpb.ReadFiles{User: uint64(user)}); len(f.Files) != 0 || f.Usage.Bytes != 400 {
		t.Fatalf("an upload is listed as a file, or reserves nothing: %v", f)
	}
	wantCode(t, b.claimFile(user, 1), proto.CodeUnknownFile)
	wantCode(t, b.completeFile(user, 1, 399), proto.CodeBadRequest)
	wantCode(t, b.completeFile(user, 1, 400), proto.CodeOK)
	if r := b.completeFile(user, 1, 400); r.Code != 0 || !r.Repeated {
		t.Fatalf("completing again: %v", r)
	}
	other := b.do(&cellpb.Command{Body: &cellpb.Command_CompleteFile{CompleteFile: &cellpb.CompleteFile{User: uint64(user), Number: 1, File: stored(400, "another")}}})
	wantCode(t, other, proto.CodeBadRequest)
	f := b.files(&cellpb.ReadFiles{User: uint64(user), Number: 1})
	if len(f.Files) != 1 || f.Files[0].File.Blob != "blob1" || f.Usage.Bytes != 400 || f.Usage.Files != 1 || len(f.Usage.Uploads) != 0 {
		t.Fatalf("%v", f)
	}
	wantCode(t, b.completeFile(user, 7, 1), proto.CodeUnknownFile)
	if r := b.createFile(proto.EntityID(9_000_000), 2, 1); proto.Code(r.Code) != proto.CodeUnknownUser {
		t.Fatalf("an upload for a user of another range: %v", r)
	}
}

func TestQuotaCountsUploadsAndLetsPartsBeJoined(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	b.addFile(user, 1, 300)
	wantCode(t, b.createFile(user, 2, 701), proto.CodeOverQuota)
	wantCode(t, b.createFile(user, 2, proto.FileBytesMax+1), proto.CodeTooBig)
	wantCode(t, b.createFile(user, 3, ^uint64(0)), proto.CodeTooBig)
	p1, p2 := b.createFile(user, 4, 300).File.Number, b.createFile(user, 5, 300).File.Number
	wantCode(t, b.createFile(user, 6, 200), proto.CodeOverQuota)
	wantCode(t, b.createFile(user, 7, 700, p1, p1), proto.CodeOverQuota) // named twice, counted once
	wantCode(t, b.createFile(user, 8, 600, p1, 99), proto.CodeUnknownFile)
	joined := b.createFile(user, 9, 600, p1, p2)
	wantCode(t, joined, proto.CodeOK)
	wantCode(t, b.completeFile(user, joined.File.Number, 600, p1, p2), proto.CodeOK)
	if u := b.files(&cellpb.ReadFiles{User: uint64(user)}).Usage; u.Bytes != 900 || u.Files != 2 || len(u.Uploads) != 0 {
		t.Fatalf("%v", u)
	}
	grow := func(number, size uint64) *cellpb.Result {
		return b.do(&cellpb.Command{Body: &cellpb.Command_ReserveFile{ReserveFile: &cellpb.ReserveFile{User: uint64(user), Number: number, Size: size, Quota: quota}}})
	}
	open := b.createFile(user, 10, 0).File.Number
	wantCode(t, grow(open, 100), proto.CodeOK)
	wantCode(t, grow(open, 101), proto.CodeOverQuota)
	wantCode(t, grow(open, 50), proto.CodeOK)
	wantCode(t, grow(99, 1), proto.CodeUnknownFile)
	if u := b.files(&cellpb.ReadFiles{User: uint64(user)}).Usage; u.Bytes != 950 {
		t.Fatalf("%v", u)
	}
	b.removeFile(user, open, 0)
	b.removeFile(user, 1, 0)
	if u := b.files(&cellpb.ReadFiles{User: uint64(user)}).Usage; u.Bytes != 600 || u.Files != 1 {
		t.Fatalf("%v", u)
	}
}

func TestUploadsAreFewAndForgottenInTime(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	for n := range uint64(proto.UploadsMax) {
		wantCode(t, b.createFile(user, n, 1), proto.CodeOK)
	}
	wantCode(t, b.createFile(user, 1000, 1), proto.CodeTooMany)
	b.nowMs += (openUploadKept + time.Millisecond).Milliseconds()
	wantCode(t, b.createFile(user, 1000, 1), proto.CodeOK)
	wantCode(t, b.completeFile(user, 1, 1), proto.CodeUnknownFile)
	if u := b.files(&cellpb.ReadFiles{User: uint64(user)}).Usage; u.Bytes != 1 || u.LastNumber != proto.UploadsMax+1 {
		t.Fatalf("%v", u)
	}
}

// TestReferencesCrossRanges sends a file in threads that this range, and
// another one, own.
func TestReferencesCrossRanges(t *testing.T) {
	mine, theirs := forTest(t, newRig(t, 1)), forTest(t, newRig(t, 2))
	var ours, others []proto.EntityID
	for range 8 {
		ours, others = append(ours, mine.addUser()), append(others, theirs.addUser())
	}
	for name, owner := range map[string]*rig{"here": mine, "there": theirs} {
		t.Run(name, func(t *testing.T) {
			thread, ok := threadOwnedBy(owner.rng, ours, others)
			if !ok {
				t.Fatal("no such thread")
			}
			sender := thread.Low
			number := mine.addFile(sender, 100, 5)
			if r := mine.claimFile(sender, number); r.Code != 0 || r.File.File.Name != "a.txt" {
				t.Fatalf("%v", r)
			}
			sent := owner.do(appendCommand(fileMessage(thread, sender, owner.id(0), number)))
			wantCode(t, sent, proto.CodeOK)
			if owner == theirs {
				for range 2 { // delivered twice, counted once
					mine.do(takeRows(theirs.rng, theirs.channelRows(mine.rng, 0, 100)))
				}
			}
			f := mine.files(&cellpb.ReadFiles{User: uint64(sender), Number: number})
			if f.Files[0].File.References != 1 || len(f.Sent) != 1 || f.Sent[0].Thread != thread.String() || f.Sent[0].Seq != sent.Seq {
				t.Fatalf("%v", f)
			}
			if row := mine.removeFile(sender, number, mine.nowMs+int64(1e12)); row.File != nil {
				t.Fatal("a file that was sent is collected")
			}
			if row := mine.removeFile(sender, number, 0); row.File == nil {
				t.Fatal("its owner cannot remove it")
			}
			if f := mine.files(&cellpb.ReadFiles{User: uint64(sender), Number: number}); len(f.Files) != 0 || len(f.Sent) != 0 {
				t.Fatalf("of a removed file is left: %v", f)
			}
		})
	}
}

func TestOnlyUnsentFilesAreCollected(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	claimed, unsent := b.addFile(user, 1, 1), b.addFile(user, 2, 1)
	upload := b.createFile(user, 3, 1).File.Number
	wantCode(t, b.claimFile(user, claimed), proto.CodeOK)
	for _, number := range []uint64{claimed, unsent, upload} {
		if row := b.removeFile(user, number, b.nowMs); row.File != nil || row.Upload != nil {
			t.Fatalf("%d is collected before its time", number)
		}
	}
	if row := b.removeFile(user, claimed, b.nowMs+1); row.File != nil {
		t.Fatal("a claimed file is collected")
	}
	if row := b.removeFile(user, unsent, b.nowMs+1); row.File == nil || row.File.Blob == "" {
		t.Fatal("an unsent file is not collected")
	}
	if row := b.removeFile(user, upload, b.nowMs+1); row.Upload == nil {
		t.Fatal("an old upload is not collected")
	}
	if row := b.removeFile(user, unsent, 0); row.File != nil {
		t.Fatal("removed twice")
	}
}

func TestFilesOfMessagesAreChecked(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	thread := proto.DirectThread(b.addUser(), b.addUser())
	for name, change := range map[string]func(*clientpb.FileMessage){
		"another's":   func(f *clientpb.FileMessage) { f.File = proto.FileID{Owner: thread.High, Number: 1}.String() },
		"no id":       func(f *clientpb.FileMessage) { f.File = "../1" },
		"kind":        func(f *clientpb.FileMessage) { f.Kind = 9 },
		"thumbnail":   func(f *clientpb.FileMessage) { f.Thumbnail = make([]byte, proto.ThumbnailBytesMax+1) },
		"hash":        func(f *clientpb.FileMessage) { f.Blake3 = nil },
		"long name":   func(f *clientpb.FileMessage) { f.Name = string(make([]byte, proto.FileNameBytesMax+1)) },
		"long type":   func(f *clientpb.FileMessage) { f.Type = string(make([]byte, proto.FileTypeBytesMax+1)) },
		"also a text": nil,
	} {
		m := fileMessage(thread, thread.Low, b.id(0), 1)
		if change == nil {
			m.Text = &cellpb.TextBody{Text: "x"}
		} else {
			change(m.File)
		}
		if r := b.do(appendCommand(m)); r.Code == 0 {
			t.Errorf("%s: a message like that is taken", name)
		}
	}
}

func TestFilesArePaged(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user, next := b.addUser(), b.addUser()
	b.addFile(next, 1, 1)
	for n := range uint64(5) {
		b.addFile(user, n, 1)
	}
	var got []uint64
	q := &cellpb.ReadFiles{User: uint64(user), Limit: 2}
	for {
		page := b.files(q)
		for _, row := range page.Files {
			got = append(got, row.Number)
		}
		if !page.More {
			break
		}
		q.Before = got[len(got)-1]
	}
	if fmt.Sprint(got) != "[5 4 3 2 1]" {
		t.Fatalf("%v", got)
	}
}

// TestFilesApplyAlike applies random commands twice, cut into batches
// otherwise and with crashes: both must end alike, and the usage must be the
// sum of what there is.
func TestFilesApplyAlike(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, two := newRig(rt, 1), newRig(rt, 1)
		defer one.close()
		defer two.close()
		users := []proto.EntityID{one.addUser(), one.addUser()}
		two.addUser()
		two.addUser()
		thread := proto.DirectThread(users[0], users[1])
		for range rapid.IntRange(1, 40).Draw(rt, "commands") {
			user := rapid.SampledFrom(users).Draw(rt, "user")
			number := rapid.Uint64Range(1, 6).Draw(rt, "number")
			size := rapid.Uint64Range(0, 400).Draw(rt, "size")
			c := new(cellpb.Command)
			switch rapid.IntRange(0, 6).Draw(rt, "kind") {
			case 0, 1:
				c.Body = &cellpb.Command_CreateFile{CreateFile: &cellpb.CreateFile{User: uint64(user), Nonce: nonce(rapid.Uint64Range(0, 20).Draw(rt, "nonce")), Size: size, Quota: quota}}
			case 2, 3:
				u := findUpload(one.files(&cellpb.ReadFiles{User: uint64(user)}).Usage, number)
				c.Body = &cellpb.Command_CompleteFile{CompleteFile: &cellpb.CompleteFile{User: uint64(user), Number: number, File: stored(u.GetSize(), "b")}}
			case 4:
				c.Body = &cellpb.Command_RemoveFile{RemoveFile: &cellpb.RemoveFile{User: uint64(user), Number: number}}
			case 5:
				c.Body = &cellpb.Command_ReserveFile{ReserveFile: &cellpb.ReserveFile{User: uint64(user), Number: number, Size: size, Quota: quota}}
			case 6:
				c = appendCommand(fileMessage(thread, user, one.id(0), number))
				two.ids = one.ids
			}
			two.manual = rapid.Bool().Draw(rt, "batched")
			a, b := one.do(c), two.do(c)
			if a.String() != b.String() {
				rt.Fatalf("%v, and %v", a, b)
			}
			if rapid.IntRange(0, 9).Draw(rt, "crash") == 0 {
				two.restart(true)
			}
		}
		two.commit()
		if digest(rt, one.db, 1) != digest(rt, two.db, 1) || one.m.RunningHash() != two.m.RunningHash() {
			rt.Fatal("the two differ")
		}
		for _, user := range users {
			f := one.files(&cellpb.ReadFiles{User: uint64(user)})
			var bytesHeld uint64
			for _, row := range f.Files {
				bytesHeld += row.File.Size
			}
			for _, u := range f.Usage.Uploads {
				bytesHeld += u.Size
			}
			if bytesHeld != f.Usage.Bytes || uint64(len(f.Files)) != f.Usage.Files || f.Usage.Bytes > quota {
				rt.Fatalf("usage %v, files %v", f.Usage, f.Files)
			}
		}
	})
}
