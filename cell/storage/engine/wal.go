package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The chunks of a write-ahead log, in blocks of 32 KiB: checksum (4), length
// (2), kind (1), number of the log (4), and the place up to which the log was
// synced when the chunk was written (8).
const (
	walBlock     = 32 << 10
	walHeader    = 19
	walKindFirst = 9
	walKindLast  = 12
)

// checkLogs refuses a store with a write-ahead log whose synced part is
// damaged. Pebble takes an unreadable chunk for the end of the log unless
// something in a later block says that it had been synced. Our logs are often
// shorter than a block, so acknowledged entries would vanish without a word:
// this looks at every chunk behind it.
//
// What was not synced may be unreadable after a crash, and things behind it
// may not; so only a chunk that names a later synced place proves damage.
func checkLogs(dir string, fs vfs.FS) error {
	names, err := fs.List(dir)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("engine: list %s: %w", dir, err)
	}
	for _, name := range names {
		number, isLog := strings.CutSuffix(name, ".log")
		if !isLog {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			continue // Pebble's to judge
		}
		path := filepath.Join(dir, name)
		f, err := fs.Open(path)
		if err != nil {
			return fmt.Errorf("engine: %w", err)
		}
		raw, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("engine: read %s: %w", path, err)
		}
		if at := damagedLog(raw, uint32(n)); at >= 0 {
			return corrupt(path, fmt.Errorf("the record at byte %d was synced and cannot be read: %w", at, pebble.ErrCorruption))
		}
	}
	return nil
}

// damagedLog is where the first unreadable chunk begins that had been synced;
// -1 if there is none.
func damagedLog(raw []byte, number uint32) int {
	written := len(bytes.TrimRight(raw, "\x00"))
	at := 0
	for at < written {
		if left := walBlock - at%walBlock; left < walHeader {
			at += left
			continue
		}
		n, _ := wholeLogChunk(raw, at, number)
		if n == 0 {
			break
		}
		at += n
	}
	for later := at + 1; later < written; later++ {
		if n, synced := wholeLogChunk(raw, later, number); n > 0 && synced > uint64(at) {
			return at
		}
	}
	return -1
}

// wholeLogChunk is the length of the chunk at a place, 0 if there is none, and
// what it says of the part that was synced.
func wholeLogChunk(raw []byte, at int, number uint32) (length int, synced uint64) {
	left := min(len(raw)-at, walBlock-at%walBlock)
	if left < walHeader || raw[at+6] < walKindFirst || raw[at+6] > walKindLast ||
		binary.LittleEndian.Uint32(raw[at+7:]) != number {
		return 0, 0
	}
	size := walHeader + int(binary.LittleEndian.Uint16(raw[at+4:]))
	if size > left || !goodChecksum(raw[at:at+size]) {
		return 0, 0
	}
	return size, binary.LittleEndian.Uint64(raw[at+11:])
}

// goodChecksum tells whether a chunk is what was written: its checksum is
// that of all behind the length, masked.
func goodChecksum(chunk []byte) bool {
	crc := crc32.Checksum(chunk[6:], crc32.MakeTable(crc32.Castagnoli))
	return binary.LittleEndian.Uint32(chunk) == (crc>>15|crc<<17)+0xa282ead8
}
