package engine

import (
	"bytes"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// slowFS takes a while for every write, and makes no table before ready.
type slowFS struct {
	vfs.FS
	perWrite time.Duration
	ready    chan struct{}
}

func (fs slowFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if fs.ready != nil && category == "pebble-memtable-flush" {
		<-fs.ready
	}
	f, err := fs.FS.Create(name, category)
	return slowFile{f, fs.perWrite}, err
}

type slowFile struct {
	vfs.File
	perWrite time.Duration
}

func (f slowFile) Write(p []byte) (int, error) {
	time.Sleep(f.perWrite)
	return f.File.Write(p)
}

// Tables are written in turns with three times as long a rest after each, the
// write-ahead log and what is urgent at once.
func TestTablesAreWrittenInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const turns = 8
		write := func(category vfs.DiskWriteCategory, perTurn time.Duration, behind bool) time.Duration {
			fs := pacedFS{slowFS{FS: vfs.NewMem(), perWrite: perTurn / 4}, new(pacer)}
			f, err := fs.Create("a", category)
			if err != nil {
				t.Fatal(err)
			}
			if paced, ok := f.(*pacedFile); ok {
				paced.behind, paced.unseen = behind, -turns*turnBytes // it looks no more
			}
			began := time.Now()
			for range 4 * turns {
				if _, err := f.Write(make([]byte, turnBytes/4)); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		const turn = 800 * time.Microsecond
		for _, c := range []struct {
			category vfs.DiskWriteCategory
			perTurn  time.Duration
			behind   bool
			want     time.Duration
		}{
			{"pebble-memtable-flush", turn, false, turns * (1 + restShare) * turn},
			{"pebble-compaction", turn, false, turns * (1 + restShare) * turn},
			{"pebble-compaction", 10 * turn, false, turns * (10*turn + restMax)},
			{"pebble-memtable-flush", turn, true, turns * turn},
			{"pebble-wal", turn, false, turns * turn},
		} {
			if got := write(c.category, c.perTurn, c.behind); got != c.want {
				t.Errorf("%s, a turn takes %s, behind %t: %s, want %s", c.category, c.perTurn, c.behind, got, c.want)
			}
		}
	})
}

// A store whose memtables fill faster than they are flushed is behind, and
// opening one is not to be held up either.
func TestAStoreThatIsBehind(t *testing.T) {
	const memtable = 64 << 10
	fs := slowFS{FS: vfs.NewMem(), ready: make(chan struct{})}
	e, err := Open("d", fs, Config{MemtableBytes: memtable}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p := &pacer{memtable: memtable}
	if !p.behind() {
		t.Error("a store that is being opened is not behind")
	}
	p.db.Store(e.State)
	fill := func(key byte) { // a memtable and a little
		for range 4 {
			if err := e.State.Set([]byte{key}, bytes.Repeat([]byte{1}, memtable/4), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(1)
	if p.behind() {
		t.Error("behind with one memtable to flush")
	}
	fill(2)
	if !p.behind() {
		t.Error("not behind with two memtables to flush")
	}
	close(fs.ready)
	if err := e.State.Flush(); err != nil {
		t.Fatal(err)
	}
	if p.behind() {
		t.Error("behind after everything was flushed")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}
