package state

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// damageQuestions are the questions a host asks, about what the test wrote.
func damageQuestions(thread proto.ThreadID, dest uint64) map[string]*cellpb.LeadRead {
	user := uint64(thread.Low)
	return map[string]*cellpb.LeadRead{
		"updates":       {Body: &cellpb.LeadRead_Updates{Updates: &cellpb.ReadUpdates{User: user, Limit: 200}}},
		"events":        {Body: &cellpb.LeadRead_Events{Events: &cellpb.ReadEvents{Refs: []*cellpb.EventRef{{Thread: thread.String(), Seq: 7}}}}},
		"thread":        {Body: &cellpb.LeadRead_Thread{Thread: &cellpb.ReadThread{Thread: thread.String(), User: user, Limit: 200}}},
		"thread since":  {Body: &cellpb.LeadRead_Thread{Thread: &cellpb.ReadThread{Thread: thread.String(), User: user, Limit: 200, AtMs: startMs + 30}}},
		"threads":       {Body: &cellpb.LeadRead_Threads{Threads: &cellpb.ReadThreads{User: user}}},
		"user":          {Body: &cellpb.LeadRead_User{User: &cellpb.ReadUser{User: user}}},
		"channel":       {Body: &cellpb.LeadRead_Channel{Channel: &cellpb.ReadChannel{Dest: dest, Limit: 200}}},
		"channel heads": {Body: &cellpb.LeadRead_ChannelHeads{ChannelHeads: &cellpb.ReadChannelHeads{}}},
		"thread row":    {Body: &cellpb.LeadRead_ThreadRow{ThreadRow: &cellpb.ReadThreadRow{User: user, Thread: thread.String()}}},
		"contacts":      {Body: &cellpb.LeadRead_Contacts{Contacts: &cellpb.ReadContacts{User: user, Relations: []clientpb.Relation{sent}}}},
		"cards":         {Body: &cellpb.LeadRead_Cards{Cards: &cellpb.ReadCards{Viewer: user, Users: []uint64{user}}}},
	}
}

// A question that meets a damaged table is answered with the truth or not at
// all: never with the part that could be read.
func TestADamagedTableIsNeverAnsweredInPart(t *testing.T) {
	b := newRig(t, 1)
	low, high := b.addUser(), b.addUser()
	thread := proto.DirectThread(low, high)
	foreign := proto.RangeID(0)
	for i := range 60 {
		b.nowMs++
		c := message(thread, low, b.id(0))
		c.Text.Text = strings.Repeat(fmt.Sprint("text ", i, " "), 40)
		b.must(b.entry(b.granted(appendCommand(c))))
		for k := range 6 { // a channel of several blocks
			other := proto.EntityID(2*proto.RangeEntities + 6*uint64(i) + uint64(k))
			if th := proto.DirectThread(low, other); b.rng.Contains(th.Owner()) {
				foreign = other.Range()
				b.send(th, low, b.id(0))
			}
		}
	}
	b.do(login(low, "phone", "n"))
	b.do(changeCommand(change(low, high, ask, b.id(0))))
	b.commit()
	questions := damageQuestions(thread, uint64(foreign))
	truth := map[string]*cellpb.ReadResult{}
	for name, q := range questions {
		truth[name] = b.read(q)
	}
	if err := b.db.Flush(); err != nil {
		t.Fatal(err)
	}
	b.close()
	table, raw := largestTable(t, b.fs)
	refused := map[string]int{}
	for at := 0; at < len(raw); at += max(1, len(raw)/120) {
		fs := vfs.NewMem()
		if ok, err := vfs.Clone(b.fs, fs, "db", "db"); err != nil || !ok {
			t.Fatal(err)
		}
		bad := append([]byte(nil), raw...)
		bad[at] ^= 0x10
		f, err := fs.Create(table, vfs.WriteCategoryUnspecified)
		if err == nil {
			_, err = f.Write(bad)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		db, err := pebble.Open("db", &pebble.Options{FS: fs, Logger: quiet{}, EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}}})
		if err != nil {
			continue // named when it is opened
		}
		for name, q := range questions {
			got, err := NewReader(db, 1).Read(q)
			switch {
			case pebble.IsCorruptionError(err):
				refused[name]++
			case err != nil:
				t.Errorf("byte %d, %s: the damage is reported as %v", at, name, err)
			case !pb.Equal(got, truth[name]):
				t.Errorf("byte %d, %s: answered %.300v, the truth is %.300v", at, name, got, truth[name])
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name := range questions {
		if refused[name] == 0 {
			t.Errorf("%s never met the damage", name)
		}
	}
	t.Log(refused)
}

func largestTable(t *testing.T, fs vfs.FS) (name string, raw []byte) {
	t.Helper()
	names, err := fs.List("db")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if !strings.HasSuffix(n, ".sst") {
			continue
		}
		f, err := fs.Open("db/" + n)
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if len(all) > len(raw) {
			name, raw = "db/"+n, all
		}
	}
	return name, raw
}
