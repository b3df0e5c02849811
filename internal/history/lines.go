package history

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/google/uuid"

	"github.com/waggle-im/waggle/proto"
)

// line is a record as it is written. Incarnations and hashes are in hex.
type line struct {
	Kind        string          `json:"kind"`
	Number      uint64          `json:"number,omitempty"`
	User        proto.EntityID  `json:"user,omitempty"`
	Device      string          `json:"device,omitempty"`
	Run         uint32          `json:"run,omitempty"`
	Thread      string          `json:"thread,omitempty"`
	Seq         proto.Seq       `json:"seq,omitempty"`
	Pts         proto.Pts       `json:"pts,omitempty"`
	ID          string          `json:"id,omitempty"`
	Text        string          `json:"text,omitempty"`
	TimeMs      int64           `json:"time_ms,omitempty"`
	Error       string          `json:"error,omitempty"`
	Incarnation string          `json:"incarnation,omitempty"`
	Observer    string          `json:"observer,omitempty"`
	Range       proto.RangeID   `json:"range,omitempty"`
	Epoch       proto.Epoch     `json:"epoch,omitempty"`
	Cell        proto.CellID    `json:"cell,omitempty"`
	Replica     proto.ReplicaID `json:"replica,omitempty"`
	Index       uint64          `json:"index,omitempty"`
	Hash        string          `json:"hash,omitempty"`
}

// The kinds of lines.
const (
	linePost, lineAck, lineFail                  = "post", "ack", "fail"
	lineUpdate, lineBody, linePlaced, lineResync = "update", "body", "placed", "resync"
	lineSettled, lineStored, lineOwner, lineHash = "settled", "stored", "owner", "hash"
)

// Write writes h as lines of JSON.
func Write(w io.Writer, h History) error {
	buf := bufio.NewWriter(w)
	enc := json.NewEncoder(buf)
	var err error
	put := func(l line) {
		if err == nil {
			err = enc.Encode(l)
		}
	}
	for _, p := range h.Posted {
		put(line{Kind: linePost, Number: p.Number, User: p.Device.User, Device: p.Device.Name, Run: p.Run, Thread: p.Thread, Text: hex64(uint64(p.Text))})
	}
	for _, a := range h.Acked {
		put(line{Kind: lineAck, Number: a.Number, Seq: a.Seq, TimeMs: a.TimeMs, ID: a.ID.String()})
	}
	for _, f := range h.Failed {
		put(line{Kind: lineFail, Number: f.Number, Error: f.Error})
	}
	kinds := [...]string{Update: lineUpdate, Body: lineBody, Placed: linePlaced, Resynced: lineResync}
	for _, s := range h.Seen {
		l := line{Kind: kinds[s.Kind], User: s.Device.User, Device: s.Device.Name, Pts: s.Pts}
		if s.Kind == Update || s.Kind == Body {
			l.Thread, l.Seq, l.ID, l.Text = s.Thread, s.Seq, s.ID.String(), hex64(uint64(s.Text))
		} else {
			l.Incarnation = hex.EncodeToString([]byte(s.Incarnation))
		}
		put(l)
	}
	for _, s := range h.Settled {
		put(line{Kind: lineSettled, User: s.Device.User, Device: s.Device.Name, Pts: s.Pts})
	}
	for _, s := range h.Stored {
		put(line{Kind: lineStored, Thread: s.Thread, Seq: s.Seq, User: s.From, TimeMs: s.TimeMs, ID: s.ID.String(), Text: hex64(uint64(s.Text))})
	}
	for _, o := range h.Owners {
		put(line{Kind: lineOwner, Observer: o.Observer, Range: o.Range, Epoch: o.Epoch, Cell: o.Cell})
	}
	for _, x := range h.Hashes {
		put(line{Kind: lineHash, Range: x.Range, Replica: x.Replica, Index: x.Index, Hash: hex64(x.Hash)})
	}
	if err == nil {
		err = buf.Flush()
	}
	if err != nil {
		return fmt.Errorf("history: write: %w", err)
	}
	return nil
}

// Read reads what [Write] wrote. Errors name the record, counted from 1.
func Read(r io.Reader) (History, error) {
	var h History
	dec := json.NewDecoder(bufio.NewReader(r))
	dec.DisallowUnknownFields()
	names := map[string]string{} // equal threads share memory
	for n := 1; ; n++ {
		var l line
		err := dec.Decode(&l)
		if errors.Is(err, io.EOF) {
			return h, nil
		}
		if err == nil {
			if have, ok := names[l.Thread]; ok {
				l.Thread = have
			} else {
				names[l.Thread] = l.Thread
			}
			err = h.add(l)
		}
		if err != nil {
			return History{}, fmt.Errorf("history: record %d: %w", n, err)
		}
	}
}

func (h *History) add(l line) error {
	var id proto.ClientMsgID
	if l.ID != "" {
		u, err := uuid.Parse(l.ID)
		if err != nil {
			return fmt.Errorf("id %q: %w", l.ID, err)
		}
		id = proto.ClientMsgID(u)
	}
	text, err := parseHex64(l.Text)
	if err != nil {
		return fmt.Errorf("text: %w", err)
	}
	device := Device{User: l.User, Name: l.Device}
	seen := Seen{Device: device, Pts: l.Pts, Thread: l.Thread, Seq: l.Seq, ID: id, Text: TextHash(text)}
	switch l.Kind {
	case linePost:
		h.Posted = append(h.Posted, Posted{Number: l.Number, Device: device, Run: l.Run, Thread: l.Thread, Text: TextHash(text)})
	case lineAck:
		h.Acked = append(h.Acked, Acked{Number: l.Number, Seq: l.Seq, TimeMs: l.TimeMs, ID: id})
	case lineFail:
		h.Failed = append(h.Failed, Failed{Number: l.Number, Error: l.Error})
	case lineUpdate:
		seen.Kind = Update
		h.Seen = append(h.Seen, seen)
	case lineBody:
		seen.Kind = Body
		h.Seen = append(h.Seen, seen)
	case linePlaced, lineResync:
		seen.Kind = Placed
		if l.Kind == lineResync {
			seen.Kind = Resynced
		}
		raw, err := hex.DecodeString(l.Incarnation)
		if err != nil {
			return fmt.Errorf("incarnation: %w", err)
		}
		seen.Incarnation = string(raw)
		h.Seen = append(h.Seen, seen)
	case lineSettled:
		h.Settled = append(h.Settled, Settled{Device: device, Pts: l.Pts})
	case lineStored:
		h.Stored = append(h.Stored, Stored{Thread: l.Thread, Seq: l.Seq, From: l.User, TimeMs: l.TimeMs, ID: id, Text: TextHash(text)})
	case lineOwner:
		h.Owners = append(h.Owners, Owner{Observer: l.Observer, Range: l.Range, Epoch: l.Epoch, Cell: l.Cell})
	case lineHash:
		hash, err := parseHex64(l.Hash)
		if err != nil {
			return fmt.Errorf("hash: %w", err)
		}
		h.Hashes = append(h.Hashes, Hash{Range: l.Range, Replica: l.Replica, Index: l.Index, Hash: hash})
	default:
		return fmt.Errorf("kind %q is not known", l.Kind)
	}
	return nil
}

func hex64(v uint64) string { return strconv.FormatUint(v, 16) }

func parseHex64(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	return strconv.ParseUint(s, 16, 64)
}
