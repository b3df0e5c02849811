package state

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/proto/codec"
)

// Reader answers questions about a range from what has been committed. It may
// be used by any number of goroutines while the machine applies.
type Reader struct {
	rng proto.RangeID
	db  *pebble.DB
}

// NewReader makes a reader of range r.
func NewReader(db *pebble.DB, r proto.RangeID) *Reader { return &Reader{rng: r, db: db} }

// Read answers one question.
func (r *Reader) Read(q *cellpb.LeadRead) (*cellpb.ReadResult, error) {
	// A snapshot, so that the parts of one answer belong together.
	snap := r.db.NewSnapshot()
	defer snap.Close()
	v := view{rng: r.rng, r: snap}
	out := new(cellpb.ReadResult)
	var err error
	switch body := q.Body.(type) {
	case *cellpb.LeadRead_Updates:
		err = v.updates(body.Updates, out)
	case *cellpb.LeadRead_Events:
		out.Events, err = v.events(body.Events.Refs)
	case *cellpb.LeadRead_Thread:
		out.Events, err = v.thread(body.Thread)
	case *cellpb.LeadRead_Threads:
		err = v.threads(body.Threads, out)
	case *cellpb.LeadRead_User:
		out.User, err = v.user(proto.EntityID(body.User.User))
	case *cellpb.LeadRead_Channel:
		out.ChannelRows, err = v.channel(body.Channel)
	case *cellpb.LeadRead_ChannelHeads:
		out.ChannelHeads, err = v.channelHeads()
	case *cellpb.LeadRead_ThreadRow:
		err = v.threadRow(body.ThreadRow, out)
	case *cellpb.LeadRead_Contacts:
		err = v.contacts(body.Contacts, out)
	case *cellpb.LeadRead_Cards:
		out.Cards, err = v.cards(body.Cards)
	case *cellpb.LeadRead_Files:
		out.Files, err = v.files(body.Files)
	case *cellpb.LeadRead_Live:
		out.Live, err = v.readLive(body.Live)
	case *cellpb.LeadRead_Members:
		out.Members, err = v.members(body.Members)
	default:
		err = proto.Errorf(proto.CodeUnsupported, "range %s: a question this release does not know", r.rng)
	}
	if err != nil {
		return nil, fmt.Errorf("state: read range %s: %w", r.rng, err)
	}
	return out, nil
}

// Size is the number of entities given out and the bytes on disk, estimated.
func (r *Reader) Size() (entities, bytesOnDisk uint64, err error) {
	rs := new(cellpb.RangeState)
	if _, err := read(r.db, engine.RangeStateKey(r.rng), rs); err != nil {
		return 0, 0, fmt.Errorf("state: size of range %s: %w", r.rng, err)
	}
	for _, span := range engine.Spans(r.rng) {
		n, err := r.db.EstimateDiskUsage(span.Start, span.End)
		if err != nil {
			return 0, 0, fmt.Errorf("state: size of range %s: %w", r.rng, err)
		}
		bytesOnDisk += n
	}
	return rs.NextEntity - uint64(r.rng.First()), bytesOnDisk, nil
}

// State reads the range's local state record.
func (r *Reader) State() (*cellpb.RangeState, error) {
	rs := new(cellpb.RangeState)
	if _, err := read(r.db, engine.RangeStateKey(r.rng), rs); err != nil {
		return nil, fmt.Errorf("state: read range %s: %w", r.rng, err)
	}
	return rs, nil
}

// Meta reads what was written when the range was created.
func (r *Reader) Meta() (*cellpb.RangeMeta, error) {
	meta := new(cellpb.RangeMeta)
	if _, err := read(r.db, engine.MetaKey(r.rng), meta); err != nil {
		return nil, fmt.Errorf("state: read range %s: %w", r.rng, err)
	}
	return meta, nil
}

// view answers from one snapshot.
type view struct {
	rng proto.RangeID
	r   pebble.Reader
}

func (v view) iter(span engine.Span) (*pebble.Iterator, error) {
	return v.r.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
}

// newestPts is the user's newest update and his log.
func (v view) newestPts(user proto.EntityID) (proto.Pts, *cellpb.UpdateLog, error) {
	log := new(cellpb.UpdateLog)
	found, err := read(v.r, engine.EntityKey(user, engine.TagUpdateLog), log)
	if err != nil {
		return 0, nil, err
	}
	if !found {
		return 0, nil, proto.Errorf(proto.CodeUnknownUser, "there is no user %s", user)
	}
	it, err := v.iter(engine.TableSpan(user, engine.TagUpdate))
	if err != nil {
		return 0, nil, err
	}
	defer it.Close()
	pts := proto.Pts(log.Trimmed)
	if it.Last() {
		pts = max(pts, proto.Pts(engine.LastNumber(it.Key())))
	}
	return pts, log, it.Error()
}

func (v view) updates(q *cellpb.ReadUpdates, out *cellpb.ReadResult) error {
	user := proto.EntityID(q.User)
	pts, log, err := v.newestPts(user)
	if err != nil {
		return err
	}
	out.Pts, out.Incarnation = uint64(pts), log.Incarnation
	other := len(q.Incarnation) > 0 && !bytes.Equal(q.Incarnation, log.Incarnation)
	if out.Trimmed = q.After < log.Trimmed || q.After > uint64(pts) || other; out.Trimmed {
		return nil
	}
	span := engine.TableSpan(user, engine.TagUpdate)
	span.Start = engine.UpdateKey(user, proto.Pts(q.After+1))
	it, err := v.iter(span)
	if err != nil {
		return err
	}
	defer it.Close()
	limit, size := page(q.Limit), 0
	for ok := it.First(); ok && len(out.Updates) < limit && size < proto.UpdatesBytesPerFrame; ok = it.Next() {
		update := new(cellpb.StoredUpdate)
		if err := decode(it, update); err != nil {
			return err
		}
		var event *cellpb.StoredEvent
		if update.Body == nil { // the other kinds are complete
			if event, err = v.eventIfOwned(update.Thread, proto.Seq(update.Seq)); err != nil {
				return err
			}
		}
		size += eventBytes(event) + len(it.Value()) + 100 // about what it takes in a frame
		out.Updates = append(out.Updates, &cellpb.LoggedUpdate{
			User: q.User, Pts: engine.LastNumber(it.Key()), Update: update, Event: event,
		})
	}
	return it.Error()
}

// eventIfOwned reads an event of a thread this range owns; nil otherwise.
func (v view) eventIfOwned(name string, seq proto.Seq) (*cellpb.StoredEvent, error) {
	thread, err := proto.ParseThreadID(name)
	if err != nil || !v.rng.Contains(thread.Owner()) {
		return nil, nil
	}
	event := new(cellpb.StoredEvent)
	found, err := read(v.r, engine.EventKey(thread, seq), event)
	if !found {
		return nil, err
	}
	return event, err
}

func (v view) events(refs []*cellpb.EventRef) (*cellpb.Events, error) {
	out := new(cellpb.Events)
	for _, ref := range refs {
		event, err := v.eventIfOwned(ref.Thread, proto.Seq(ref.Seq))
		if err != nil {
			return nil, err
		}
		if event != nil {
			out.Events, out.Refs = append(out.Events, event), append(out.Refs, ref)
		}
	}
	return out, nil
}

// thread pages through a thread for one of its members.
func (v view) thread(q *cellpb.ReadThread) (*cellpb.Events, error) {
	thread, err := proto.ParseThreadID(q.Thread)
	if err != nil {
		return nil, proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	if !thread.Has(proto.EntityID(q.User)) {
		return nil, proto.Errorf(proto.CodeNotMember, "you are not a member of thread %s", thread)
	}
	if !v.rng.Contains(thread.Owner()) {
		return nil, proto.Errorf(proto.CodeBadRequest, "thread %s is not owned by range %s", thread, v.rng)
	}
	forward := q.After > 0 || q.AtMs > 0
	first, end := proto.Seq(0), ^proto.Seq(0)
	if q.After > 0 {
		first = proto.Seq(q.After) + 1
	}
	if q.Before > 0 {
		end = proto.Seq(q.Before)
	}
	it, err := v.iter(engine.EventSpan(thread, first, end))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	out := new(cellpb.Events)
	start, step := it.Last, it.Prev
	if forward {
		start, step = it.First, it.Next
	}
	if q.AtMs > 0 {
		seq, found, err := firstSince(it, thread, q.AtMs)
		if err != nil || !found {
			return out, err
		}
		start = func() bool { return it.SeekGE(engine.EventKey(thread, seq)) }
	}
	limit, size := page(q.Limit), 0
	ok := start()
	for ; ok && len(out.Events) < limit && size < proto.UpdatesBytesPerFrame; ok = step() {
		event := new(cellpb.StoredEvent)
		if err := decode(it, event); err != nil {
			return nil, err
		}
		size += eventBytes(event) + 100
		out.Events = append(out.Events, event)
		out.Refs = append(out.Refs, &cellpb.EventRef{Thread: q.Thread, Seq: engine.LastNumber(it.Key())})
	}
	out.More = ok
	if !forward {
		slices.Reverse(out.Events)
		slices.Reverse(out.Refs)
	}
	return out, it.Error()
}

// threads pages through a user's threads, newest first. The cursor names the
// last row given: its time and its thread.
func (v view) threads(q *cellpb.ReadThreads, out *cellpb.ReadResult) error {
	user := proto.EntityID(q.User)
	it, err := v.iter(engine.TableSpan(user, engine.TagThread))
	if err != nil {
		return err
	}
	defer it.Close()
	type place struct {
		thread proto.ThreadID
		row    *cellpb.JoinedThread
	}
	var all []place
	for ok := it.First(); ok; ok = it.Next() {
		thread, ok := engine.ParseThreadKey(it.Key())
		if !ok {
			continue
		}
		row := new(cellpb.JoinedThread)
		if err := decode(it, row); err != nil {
			return err
		}
		all = append(all, place{thread, row})
	}
	if err := it.Error(); err != nil {
		return err
	}
	newestFirst := func(aTime, bTime int64, a, b proto.ThreadID) int {
		if aTime != bTime {
			return int(max(-1, min(1, bTime-aTime)))
		}
		return strings.Compare(a.String(), b.String())
	}
	slices.SortFunc(all, func(a, b place) int { return newestFirst(a.row.LastTimeMs, b.row.LastTimeMs, a.thread, b.thread) })
	start := 0
	if q.Cursor != "" {
		at, after, err := parseCursor(q.Cursor)
		if err != nil {
			return err
		}
		for start < len(all) && newestFirst(all[start].row.LastTimeMs, at, all[start].thread, after) <= 0 {
			start++
		}
	}
	limit := page(q.Limit)
	for _, p := range all[start:] {
		if len(out.Threads) == limit {
			last := out.Threads[limit-1]
			out.Cursor = fmt.Sprintf("%d.%s", last.Row.LastTimeMs, hex.EncodeToString([]byte(last.Thread)))
			break
		}
		event, err := v.eventIfOwned(p.thread.String(), proto.Seq(p.row.LastSeq))
		if err != nil {
			return err
		}
		out.Threads = append(out.Threads, &cellpb.JoinedThreadRow{Thread: p.thread.String(), Row: p.row, Last: event})
	}
	return nil
}

// threadRow reads one of a user's threads.
func (v view) threadRow(q *cellpb.ReadThreadRow, out *cellpb.ReadResult) error {
	thread, err := proto.ParseThreadID(q.Thread)
	if err != nil {
		return proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	row := new(cellpb.JoinedThread)
	found, err := read(v.r, engine.ThreadKey(proto.EntityID(q.User), thread), row)
	if found {
		out.Threads = append(out.Threads, &cellpb.JoinedThreadRow{Thread: q.Thread, Row: row})
	}
	return err
}

func parseCursor(cursor string) (int64, proto.ThreadID, error) {
	at, name, _ := strings.Cut(cursor, ".")
	ms, err := strconv.ParseInt(at, 10, 64)
	raw, err2 := hex.DecodeString(name)
	thread, err3 := proto.ParseThreadID(string(raw))
	if err != nil || err2 != nil || err3 != nil {
		return 0, proto.ThreadID{}, proto.Errorf(proto.CodeBadRequest, "the cursor is not one of ours")
	}
	return ms, thread, nil
}

func (v view) user(id proto.EntityID) (*cellpb.UserInfo, error) {
	out := &cellpb.UserInfo{User: uint64(id), Profile: new(cellpb.Profile)}
	found, err := read(v.r, engine.EntityKey(id, engine.TagProfile), out.Profile)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, proto.Errorf(proto.CodeUnknownUser, "there is no user %s", id)
	}
	pts, log, err := v.newestPts(id)
	if err != nil {
		return nil, err
	}
	out.Pts, out.Incarnation = uint64(pts), log.Incarnation
	span := engine.TableSpan(id, engine.TagDevice)
	it, err := v.iter(span)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		d := &cellpb.DeviceInfo{Device: string(it.Key()[len(span.Start):]), Row: new(cellpb.Device)}
		if err := decode(it, d.Row); err != nil {
			return nil, err
		}
		out.Devices = append(out.Devices, d)
	}
	return out, it.Error()
}

// channel reads rows to one destination, with the events they tell of.
func (v view) channel(q *cellpb.ReadChannel) ([]*cellpb.ChannelRow, error) {
	dest := proto.RangeID(q.Dest)
	it, err := v.iter(engine.Span{
		Start: engine.ChannelOutKey(v.rng, dest, q.After+1), End: engine.ChannelOutKey(v.rng, dest+1, 0),
	})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []*cellpb.ChannelRow
	limit, size := int(q.Limit), 0
	for ok := it.First(); ok && len(out) < limit && size < 1<<20; ok = it.Next() {
		row := new(cellpb.ChannelRow)
		if err := decode(it, row); err != nil {
			return nil, err
		}
		if msg := row.GetMessage(); msg != nil {
			if row.Event, err = v.eventIfOwned(msg.Thread, proto.Seq(msg.Seq)); err != nil {
				return nil, err
			}
		}
		size += 100 + len(it.Value()) + eventBytes(row.Event)
		out = append(out, row)
	}
	return out, it.Error()
}

// channelHeads lists the channels that hold rows.
func (v view) channelHeads() ([]*cellpb.ChannelHead, error) {
	span := engine.ChannelOutSpan(v.rng)
	it, err := v.iter(span)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []*cellpb.ChannelHead
	for ok := it.First(); ok; {
		dest, first, valid := engine.ParseChannelOutKey(it.Key())
		if !valid {
			return nil, fmt.Errorf("key %x is not of a channel", it.Key())
		}
		head := &cellpb.ChannelHead{Dest: uint64(dest), First: first, Last: first}
		if it.SeekLT(engine.ChannelOutKey(v.rng, dest+1, 0)) {
			head.Last = engine.LastNumber(it.Key())
		} else if err := it.Error(); err != nil { // the next seek would forget it
			return nil, err
		}
		out = append(out, head)
		ok = it.SeekGE(engine.ChannelOutKey(v.rng, dest+1, 0))
	}
	return out, it.Error()
}

func page(limit uint32) int {
	if limit == 0 {
		return proto.PageDefault
	}
	return int(min(limit, proto.PageMax))
}

// eventBytes is about what an event's body takes.
func eventBytes(e *cellpb.StoredEvent) int {
	return len(e.GetText().GetText()) + len(e.GetLocation().GetName()) + len(e.GetCard().GetName()) + codec.Size(e.GetFile()) + codec.Size(e.GetLive())
}
