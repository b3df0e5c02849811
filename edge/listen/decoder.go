package listen

import (
	"encoding/binary"

	"github.com/waggle-im/waggle/proto"
)

// headerBytes is the big-endian length before every frame.
const headerBytes = 4

// decoder cuts a byte stream into frames. It keeps only the beginning of a
// frame that is not complete yet, in a buffer that grows with what came, never
// by what a length announces. The zero value is ready.
type decoder struct {
	partial []byte
}

// feed gives every complete frame in data, and what was kept before it, to
// emit, until emit returns false. limit is asked before each frame, because
// handling a frame may raise it. Frames are valid during emit only.
//
// Errors: [proto.CodeTooBig]; nothing of that frame has been kept.
func (d *decoder) feed(data []byte, limit func() int, emit func([]byte) bool) error {
	if len(d.partial) > 0 {
		rest, done, err := d.complete(data, limit, emit)
		if err != nil || !done {
			return err
		}
		data = rest
	}
	for len(data) >= headerBytes {
		size, err := frameSize(data, limit())
		if err != nil {
			return err
		}
		if len(data) < headerBytes+size {
			break
		}
		frame := data[headerBytes : headerBytes+size]
		data = data[headerBytes+size:]
		if !emit(frame) {
			return nil
		}
	}
	if len(data) > 0 {
		d.partial = append([]byte(nil), data...)
	}
	return nil
}

// complete adds from data to the kept beginning until that is one frame, and
// emits it. done is false when data is used up or emit wants no more.
func (d *decoder) complete(data []byte, limit func() int, emit func([]byte) bool) (rest []byte, done bool, err error) {
	if need := headerBytes - len(d.partial); need > 0 {
		n := min(need, len(data))
		d.partial = append(d.partial, data[:n]...)
		data = data[n:]
		if n < need {
			return nil, false, nil
		}
	}
	size, err := frameSize(d.partial, limit())
	if err != nil {
		d.partial = nil
		return nil, false, err
	}
	n := min(headerBytes+size-len(d.partial), len(data))
	d.partial = append(d.partial, data[:n]...)
	data = data[n:]
	if len(d.partial) < headerBytes+size {
		return nil, false, nil
	}
	frame := d.partial[headerBytes:]
	d.partial = nil
	return data, emit(frame), nil
}

// frameSize is the checked length at the beginning of b.
func frameSize(b []byte, limit int) (int, error) {
	size := binary.BigEndian.Uint32(b)
	if uint64(size) > uint64(limit) {
		return 0, proto.Errorf(proto.CodeTooBig, "a frame of %d bytes was announced; at most %d are allowed here", size, limit)
	}
	return int(size), nil
}

// appendFrame is frame with its length, behind b.
func appendFrame(b, frame []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(frame)))
	return append(b, frame...)
}

// looksLikeHTTP tells an HTTP request line from the length of a native frame
// by the first byte of a connection.
func looksLikeHTTP(first byte) bool {
	return first >= 'A' && first <= 'Z' || first >= 'a' && first <= 'z'
}
