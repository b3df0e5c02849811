package canary

import (
	"context"
	"fmt"
	"time"

	waggle "github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// writeInterval is the pause between two messages, at most.
	writeInterval = 100 * time.Millisecond
	// writePatience is how long a message is sent again until it is answered.
	writePatience = 15 * time.Second
	// writeRetry is the pause before a message is sent again.
	writeRetry = 50 * time.Millisecond
	// readAtOnce is how many messages are read with one question.
	readAtOnce = 50
)

// sent is one message that was acknowledged.
type sent struct {
	id  waggle.ClientMsgID
	seq uint64
}

// writer is one of the two users, who writes to the other.
type writer struct {
	*Canary
	r      waggle.RangeID
	from   waggle.EntityID
	thread string
	o      *outcome
}

// newWriter makes the two users, or finds them again.
func (c *Canary) newWriter(ctx context.Context, r waggle.RangeID, o *outcome) (*writer, error) {
	var users [2]waggle.EntityID
	for i := range users {
		var key [16]byte
		copy(key[:], c.Cluster.View().Ranges[r].GetIncarnation()) // random, and the range's own
		key[0] ^= byte(i)
		var err error
		if users[i], err = c.Users.CreateUser(ctx, r, key, fmt.Sprintf("canary %d", i+1)); err != nil {
			return nil, fmt.Errorf("its users are not made: %w", err)
		}
	}
	return &writer{Canary: c, r: r, from: users[0], thread: waggle.DirectThread(users[0], users[1]).String(), o: o}, nil
}

// write sends one message, again and again until it is answered.
func (w *writer) write(ctx context.Context) error {
	began := time.Now()
	id := waggle.NewClientMsgID(began)
	req := &cellpb.RelayRequest{Body: &cellpb.RelayRequest_Append{Append: &cellpb.AppendMessage{
		Thread: w.thread, From: uint64(w.from), ClientMsgId: id[:], Text: &cellpb.TextBody{Text: id.String()},
		FromName: "canary 1", ToName: "canary 2", Device: by,
	}}}
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	for {
		reply, err := w.Ranges.Do(ctx, w.r, req)
		if err == nil && reply.GetResult().GetCode() != 0 {
			err = waggle.FromWire(reply.GetResult().GetCode(), reply.GetResult().GetMessage(), reply.GetResult().GetRetryMs())
		}
		if err == nil {
			w.o.sent = append(w.o.sent, sent{id, reply.GetResult().GetSeq()})
			w.o.slowest = max(w.o.slowest, time.Since(began))
			return nil
		}
		pause := time.NewTimer(writeRetry)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("a message was not answered for %s: %w", time.Since(began).Round(time.Millisecond), err)
		}
	}
}

// check reads every message that was acknowledged: each is there, once, and in
// the order of sending.
func (w *writer) check(ctx context.Context) error {
	last := uint64(0)
	for _, s := range w.o.sent {
		if s.seq <= last {
			return fmt.Errorf("message %s was given the number %d after %d", s.id, s.seq, last)
		}
		last = s.seq
	}
	for rest := w.o.sent; len(rest) > 0; {
		page := rest[:min(len(rest), readAtOnce)]
		rest = rest[len(page):]
		ask := &cellpb.ReadEvents{}
		for _, s := range page {
			ask.Refs = append(ask.Refs, &cellpb.EventRef{Thread: w.thread, Seq: s.seq})
		}
		reply, err := w.Ranges.Do(ctx, w.r, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadEvents{ReadEvents: ask}})
		if err != nil {
			return fmt.Errorf("what was written cannot be read: %w", err)
		}
		found := map[uint64]*cellpb.StoredEvent{}
		for i, event := range reply.GetEvents().GetEvents() {
			found[reply.GetEvents().GetRefs()[i].GetSeq()] = event
		}
		for _, s := range page {
			switch event := found[s.seq]; {
			case event == nil:
				return fmt.Errorf("message %d, which was acknowledged, is not there", s.seq)
			case string(event.ClientMsgId) != string(s.id[:]) || event.GetText().GetText() != s.id.String():
				return fmt.Errorf("message %d is another than was acknowledged", s.seq)
			}
		}
	}
	return nil
}
