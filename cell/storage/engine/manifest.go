package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The format of a MANIFEST: blocks of 32 KiB, in them chunks of a header
// (masked CRC-32C, length, kind) and a body.
const (
	manifestBlock   = 32 << 10
	manifestHeader  = 7
	manifestKindMax = 4
)

// checkManifest refuses a store whose MANIFEST has a damaged record. Pebble
// ends at the first record that it cannot read, as if a crash had broken it
// off, and then deletes the tables that the rest of the MANIFEST names. Only
// what reaches to the end of the file, or to nothing but zeros, can be that.
//
// It also refuses a store that has files and no marker: Pebble would take the
// folder for an empty one.
func checkManifest(dir string, fs vfs.FS) error {
	names, err := fs.List(dir)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("engine: list %s: %w", dir, err)
	}
	tables := ""
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			tables = name
		}
	}
	desc, err := pebble.Peek(dir, fs)
	if err != nil {
		return corrupt(dir, err)
	}
	if !desc.Exists {
		if tables != "" {
			return corrupt(dir, fmt.Errorf("it holds %s, and the marker that names its MANIFEST is gone: %w", tables, pebble.ErrCorruption))
		}
		return nil
	}
	f, err := fs.Open(desc.ManifestFilename)
	if err != nil {
		return corrupt(desc.ManifestFilename, err)
	}
	raw, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("engine: read %s: %w", desc.ManifestFilename, err)
	}
	if at := damagedChunk(raw); at >= 0 {
		return corrupt(desc.ManifestFilename, fmt.Errorf("the record at byte %d has a bad checksum: %w", at, pebble.ErrCorruption))
	}
	return nil
}

// damagedChunk is where the first chunk begins that is neither whole nor the
// end of a write that was broken off; -1 if there is none.
func damagedChunk(raw []byte) int {
	written := len(bytes.TrimRight(raw, "\x00"))
	for at := 0; at < written; {
		if left := manifestBlock - at%manifestBlock; left < manifestHeader {
			at += left // too little for a header: filled up with zeros
			continue
		}
		if n := wholeChunk(raw, at); n > 0 {
			at += n
			continue
		}
		for later := at + 1; later < written; later++ {
			if wholeChunk(raw, later) > 0 {
				return at // something was written behind it
			}
		}
		if len(raw)-at < manifestHeader {
			return -1
		}
		// A file system may keep the length of a write and lose its end.
		end := at + manifestHeader + int(binary.LittleEndian.Uint16(raw[at+4:]))
		if end > len(raw) || written < end {
			return -1
		}
		return at
	}
	return -1
}

// wholeChunk is the length of the chunk at a place, 0 if there is none.
func wholeChunk(raw []byte, at int) int {
	left := min(len(raw)-at, manifestBlock-at%manifestBlock)
	if left < manifestHeader || raw[at+6] == 0 || raw[at+6] > manifestKindMax {
		return 0
	}
	size := manifestHeader + int(binary.LittleEndian.Uint16(raw[at+4:]))
	if size > left {
		return 0
	}
	if !goodChecksum(raw[at : at+size]) {
		return 0
	}
	return size
}
