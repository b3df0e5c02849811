package state

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/xxh3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const startMs = int64(1_700_000_000_000)

// logged is an entry as Raft would hand it out.
type logged struct {
	index, term uint64
	data        []byte
}

// failer is what *testing.T and *rapid.T have in common.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// rig is one range on a disk of its own.
type rig struct {
	t       failer
	fs      *vfs.MemFS
	db      *pebble.DB
	m       *Machine
	rng     proto.RangeID
	log     []logged
	term    uint64
	grant   uint64
	epoch   uint64
	nowMs   int64
	manual  bool // do not commit after each entry
	ids     uint64
	account uint64
}

func openDB(t failer, fs vfs.FS) *pebble.DB {
	t.Helper()
	db, err := pebble.Open("db", &pebble.Options{FS: fs, MemTableSize: 256 << 10, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// bare makes a range in which nothing was applied yet.
func bare(t failer, r proto.RangeID) *rig {
	t.Helper()
	b := &rig{t: t, fs: vfs.NewCrashableMem(), rng: r, term: 3, epoch: 1, nowMs: startMs}
	b.db = openDB(t, b.fs)
	var err error
	if b.m, err = Create(b.db, &cellpb.Descriptor{Range: uint64(r), Cell: "c1", Epoch: 1}, incarnationOf(r)); err != nil {
		t.Fatal(err)
	}
	return b
}

func incarnationOf(r proto.RangeID) []byte { return []byte(fmt.Sprintf("incarnation-%04d", uint64(r))) }

// newRig makes a range with a host granted.
func newRig(t failer, r proto.RangeID) *rig {
	t.Helper()
	b := bare(t, r)
	b.newGrant()
	return b
}

// forTest closes the disk with the test.
func forTest(t *testing.T, b *rig) *rig {
	t.Cleanup(b.close)
	return b
}

func (b *rig) close() {
	if b.m.batch != nil {
		_ = b.m.batch.Close()
	}
	if err := b.db.Close(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *rig) newGrant() {
	b.grant++
	b.must(b.entry(&cellpb.Entry{Range: uint64(b.rng), Epoch: b.epoch, TimeMs: b.nowMs, Commands: []*cellpb.Command{
		{Body: &cellpb.Command_GrantHost{GrantHost: &cellpb.GrantHost{Number: b.grant, Node: "n1"}}},
	}}))
}

func (b *rig) must(a *cellpb.Applied) *cellpb.Result {
	b.t.Helper()
	r := a.Results[0]
	if r.Code != 0 {
		b.t.Fatalf("refused: %s: %s", proto.Code(r.Code), r.Message)
	}
	return r
}

// entry applies one entry as the next of the log.
func (b *rig) entry(e *cellpb.Entry) *cellpb.Applied {
	b.t.Helper()
	data, err := pb.Marshal(e)
	if err != nil {
		b.t.Fatal(err)
	}
	index := FirstIndex + uint64(len(b.log)) + 1
	b.log = append(b.log, logged{index, b.term, data})
	out := b.m.Apply(index, b.term, data)
	if !b.manual {
		b.commit()
	}
	return out
}

func (b *rig) commit() {
	b.t.Helper()
	if err := b.m.Commit(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *rig) granted(cmds ...*cellpb.Command) *cellpb.Entry {
	return &cellpb.Entry{
		Range: uint64(b.rng), Epoch: b.epoch, TimeMs: b.nowMs,
		Grant: &cellpb.GrantRef{Term: b.term, Number: b.grant}, Commands: cmds,
	}
}

func (b *rig) do(c *cellpb.Command) *cellpb.Result {
	b.t.Helper()
	return b.entry(b.granted(c)).Results[0]
}

// restart opens the range again, from what a crash leaves if crash is set,
// and applies what was lost again.
func (b *rig) restart(crash bool) {
	b.t.Helper()
	if b.m.batch != nil {
		_ = b.m.batch.Close()
	}
	fs := b.fs
	if crash {
		fs = b.fs.CrashClone(vfs.CrashCloneCfg{})
	}
	if err := b.db.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.fs = fs
	b.db = openDB(b.t, fs)
	var err error
	if b.m, err = Open(b.db, b.rng); err != nil {
		b.t.Fatal(err)
	}
	index, _ := b.m.Applied()
	for _, e := range b.log[index-FirstIndex:] {
		b.m.Apply(e.index, e.term, e.data)
	}
	b.commit()
}

func (b *rig) read(q *cellpb.LeadRead) *cellpb.ReadResult {
	b.t.Helper()
	b.commit()
	out, err := NewReader(b.db, b.rng).Read(q)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// updates is a user's whole log, see updateName.
func (b *rig) updates(user proto.EntityID) []string {
	b.t.Helper()
	var out []string
	for {
		q := &cellpb.ReadUpdates{User: uint64(user), After: uint64(len(out)), Limit: proto.PageMax}
		page := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: q}})
		if page.Trimmed {
			b.t.Fatal("the log is trimmed")
		}
		for _, u := range page.Updates {
			if u.Pts != uint64(len(out)+1) {
				b.t.Fatalf("user %s: update %d follows %d", user, u.Pts, len(out))
			}
			out = append(out, updateName(u.Update))
		}
		if uint64(len(out)) == page.Pts {
			return out
		}
	}
}

// updateName is "thread#seq" of a message, "read thread#seq by user" or
// "delivered …" of a mark.
func updateName(u *cellpb.StoredUpdate) string {
	name := fmt.Sprintf("%s#%d", u.Thread, u.Seq)
	if mark := u.GetMark(); mark != nil {
		kind := "delivered"
		if mark.Read {
			kind = "read"
		}
		return fmt.Sprintf("%s %s by %d", kind, name, mark.User)
	}
	return name
}

func (b *rig) threadRow(user proto.EntityID, thread proto.ThreadID) *cellpb.JoinedThread {
	b.t.Helper()
	q := &cellpb.ReadThreadRow{User: uint64(user), Thread: thread.String()}
	rows := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_ThreadRow{ThreadRow: q}}).Threads
	if len(rows) == 0 {
		return nil
	}
	return rows[0].Row
}

func (b *rig) channelRows(dest proto.RangeID, after uint64, limit uint32) []*cellpb.ChannelRow {
	b.t.Helper()
	q := &cellpb.ReadChannel{Dest: uint64(dest), After: after, Limit: limit}
	return b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Channel{Channel: q}}).ChannelRows
}

func (b *rig) addUser() proto.EntityID {
	b.t.Helper()
	b.account++
	return proto.EntityID(b.do(createUser(b.account)).User)
}

func createUser(account uint64) *cellpb.Command {
	key := binary.BigEndian.AppendUint64(make([]byte, 8), account)
	return &cellpb.Command{Body: &cellpb.Command_CreateUser{CreateUser: &cellpb.CreateUser{AccountKey: key, Name: fmt.Sprint("user", account)}}}
}

// id makes a message id offset from now, the same one in every run.
func (b *rig) id(offset time.Duration) proto.ClientMsgID {
	id := proto.NewClientMsgID(time.UnixMilli(b.nowMs).Add(offset))
	b.ids++
	id[6], id[7] = 0x70, byte(b.rng)
	binary.BigEndian.PutUint64(id[8:], b.ids|1<<63)
	return id
}

func message(thread proto.ThreadID, from proto.EntityID, id proto.ClientMsgID) *cellpb.AppendMessage {
	return &cellpb.AppendMessage{Thread: thread.String(), From: uint64(from), ClientMsgId: id[:], Text: &cellpb.TextBody{Text: "hello"}}
}

func appendCommand(c *cellpb.AppendMessage) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_AppendMessage{AppendMessage: c}}
}

func (b *rig) send(thread proto.ThreadID, from proto.EntityID, id proto.ClientMsgID) *cellpb.Result {
	b.t.Helper()
	return b.do(appendCommand(message(thread, from, id)))
}

func takeRows(source proto.RangeID, rows []*cellpb.ChannelRow) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_TakeChannelRows{TakeChannelRows: &cellpb.ChannelRows{
		Source: uint64(source), Incarnation: incarnationOf(source), Rows: rows,
	}}}
}

// digest covers every key and value of the range.
func digest(t failer, db *pebble.DB, r proto.RangeID) uint64 {
	t.Helper()
	h := xxh3.New()
	for _, span := range engine.Spans(r) {
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
		if err != nil {
			t.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			fmt.Fprintf(h, "%x=%x\n", it.Key(), it.Value())
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return h.Sum64()
}

// threadOwnedBy finds a thread between one of mine and one of other that
// owner's range orders.
func threadOwnedBy(owner proto.RangeID, mine, other []proto.EntityID) (proto.ThreadID, bool) {
	for _, a := range mine {
		for _, b := range other {
			if t := proto.DirectThread(a, b); a != b && t.OwnerRange() == owner {
				return t, true
			}
		}
	}
	return proto.ThreadID{}, false
}
