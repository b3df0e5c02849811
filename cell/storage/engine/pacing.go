package engine

import (
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A flush of a memtable, or a compaction, is a tenth of a second of work that
// nobody waits for. Done in one go it takes a CPU for all that time: whatever
// else runs in the process gets it after the scheduler's 10 ms at the soonest,
// at each of the goroutines on a message's way. So the tables are written in
// short turns, with a rest after each:
//
//	turnBytes written, in time w ──rest: restShare × w, restMax at most──► …
//
// It is not held up while more waits to be written behind it.
const (
	// turnBytes is what is written between two rests: about half a
	// millisecond's work. With a quarter of it the store's highest rate was
	// lower.
	turnBytes = 64 << 10
	// restShare leaves three quarters of the time to others.
	restShare = 3
	// restMax keeps at least about 16 MiB/s, on a busy machine too, where a
	// turn lasts long because others have theirs.
	restMax = 4 * time.Millisecond
	// lookBytes is written between two looks at what waits.
	lookBytes = 512 << 10
	// memtablesMax is what the memtables of a store that keeps up take, in full
	// ones: one is written to and one is being flushed.
	memtablesMax = 2
	// sublevelsMax is how many layers of new tables it has.
	sublevelsMax = 3
	// memtablesStop is how many memtables there may be before writers wait: the
	// next ones fill while one is flushed slowly.
	memtablesStop = 4
)

// pacer knows whether a store's background work may take its time.
type pacer struct {
	db       atomic.Pointer[pebble.DB] // nil: it is being opened
	memtable int                       // bytes
}

func (p *pacer) behind() bool {
	db := p.db.Load()
	if db == nil {
		return true
	}
	m := db.Metrics()
	return m.MemTable.Size > uint64(memtablesMax*p.memtable) || m.Levels[0].Sublevels > sublevelsMax
}

// pacedFS is a file system whose tables are written in turns.
type pacedFS struct {
	vfs.FS
	pacer *pacer
}

// Create implements [vfs.FS].
func (fs pacedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	if err != nil || category != "pebble-memtable-flush" && category != "pebble-compaction" {
		return f, err
	}
	return &pacedFile{File: f, pacer: fs.pacer, began: time.Now(), behind: fs.pacer.behind()}, nil
}

// Unwrap implements [vfs.FS].
func (fs pacedFS) Unwrap() vfs.FS { return fs.FS }

// pacedFile is a table being written, by one goroutine at a time.
type pacedFile struct {
	vfs.File
	pacer  *pacer
	began  time.Time // of this turn
	turn   int       // bytes
	unseen int       // bytes since the last look
	behind bool
}

// Write implements [vfs.File].
func (f *pacedFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.turn += n
	if f.turn < turnBytes {
		return n, err
	}
	if f.unseen += f.turn; f.unseen >= lookBytes {
		f.unseen, f.behind = 0, f.pacer.behind()
	}
	f.turn = 0
	if !f.behind {
		time.Sleep(min(restShare*time.Since(f.began), restMax))
	}
	f.began = time.Now()
	return n, err
}
