package state

import (
	"sort"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// firstSince is the seq of the first event at or after a time among those of
// an iterator over a thread, and false if there is none. Times never go back
// within a thread, so a few seeks find it.
func firstSince(it *pebble.Iterator, thread proto.ThreadID, atMs int64) (proto.Seq, bool, error) {
	if !it.First() {
		return 0, false, it.Error()
	}
	first := engine.LastNumber(it.Key())
	if !it.Last() {
		return 0, false, it.Error()
	}
	last := engine.LastNumber(it.Key())
	var failed error
	n := sort.Search(int(last-first+1), func(i int) bool {
		event := new(cellpb.StoredEvent)
		if failed != nil || !it.SeekGE(engine.EventKey(thread, proto.Seq(first+uint64(i)))) {
			if failed == nil {
				failed = it.Error() // the next seek would forget it
			}
			return true
		}
		failed = decode(it, event)
		return event.TimeMs >= atMs
	})
	if failed == nil {
		failed = it.Error()
	}
	return proto.Seq(first + uint64(n)), first+uint64(n) <= last, failed
}
