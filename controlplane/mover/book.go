package mover

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

const (
	// requestTimeout bounds one request to etcd.
	requestTimeout = 3 * time.Second
	// activeMax bounds the moves that are not settled: a drain of a large
	// cell plans as many, and each is a key of etcd and a row of every list.
	activeMax = 10_000
	// tries bounds the repetitions when somebody else wrote in between.
	tries = 10
)

// Book is the list of moves in etcd, for whoever wants one made or ended. It
// needs no seat.
type Book struct {
	etcd *clientv3.Client
}

// NewBook makes the book kept in etcd.
func NewBook(etcd *clientv3.Client) *Book { return &Book{etcd: etcd} }

// Submit plans a move and returns its record; p.ID is given here.
//
// Errors: [waggle.CodeConflict] while another move of the range is not settled;
// [waggle.CodeTooMany]; [waggle.CodeUnavailable] when etcd does not answer.
func (b *Book) Submit(ctx context.Context, p move.Plan) (*controlpb.MoveRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for range tries {
		got, err := b.etcd.Txn(ctx).Then(clientv3.OpGet(controlclient.NextMoveKey),
			clientv3.OpGet(controlclient.MovePrefix, clientv3.WithPrefix()), clientv3.OpGet(controlclient.FrozenKey)).Commit()
		if err != nil {
			return nil, unavailable(err)
		}
		number, modified, err := parseNumber(got.Responses[0].GetResponseRange().Kvs)
		if err != nil {
			return nil, err
		}
		if len(got.Responses[2].GetResponseRange().Kvs) > 0 {
			return nil, waggle.Errorf(waggle.CodeConflict, "placement is frozen, see `waggle status`: `waggle ranges reconcile` comes first")
		}
		active := 0
		for _, kv := range got.Responses[1].GetResponseRange().Kvs {
			rec := &controlpb.MoveRecord{}
			if err := proto.Unmarshal(kv.Value, rec); err != nil {
				return nil, fmt.Errorf("mover: %s: %w", kv.Key, err)
			}
			if move.Phase(rec.State).Settled() {
				continue
			}
			if active++; waggle.RangeID(rec.Range) == p.Range {
				return nil, waggle.Errorf(waggle.CodeConflict, "range %d is being moved already: `waggle moves show %s`", p.Range, rec.Move)
			}
		}
		if active >= activeMax {
			return nil, waggle.Errorf(waggle.CodeTooMany, "%d moves are under way: wait until some are done", active)
		}
		p.ID = moveName(number)
		if err := p.Validate(); err != nil {
			return nil, waggle.Errorf(waggle.CodeBadRequest, "%v", err)
		}
		rec := recordOf(move.Begin(p))
		ops, err := newMove(rec, number)
		if err != nil {
			return nil, err
		}
		// Every move raises the number, so nobody has planned one meanwhile.
		reply, err := b.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(controlclient.NextMoveKey), "=", modified),
			clientv3.Compare(clientv3.CreateRevision(controlclient.FrozenKey), "=", 0)).Then(ops...).Commit()
		if err != nil {
			return nil, unavailable(err)
		}
		if reply.Succeeded {
			return rec, nil
		}
	}
	return nil, waggle.Errorf(waggle.CodeUnavailable, "many moves are being planned at once: try again")
}

// nextNumber is the number of the next move, and the revision of its key.
func nextNumber(ctx context.Context, etcd *clientv3.Client) (number uint64, modified int64, err error) {
	got, err := etcd.Get(ctx, controlclient.NextMoveKey)
	if err != nil {
		return 0, 0, err
	}
	return parseNumber(got.Kvs)
}

func parseNumber(kvs []*mvccpb.KeyValue) (number uint64, modified int64, err error) {
	if len(kvs) == 0 {
		return 1, 0, nil
	}
	if number, err = strconv.ParseUint(string(kvs[0].Value), 10, 64); err != nil {
		return 0, 0, fmt.Errorf("mover: %s in etcd is not a number: restore it: %w", controlclient.NextMoveKey, err)
	}
	return number, kvs[0].ModRevision, nil
}

func moveName(number uint64) string { return "m" + strconv.FormatUint(number, 10) }

// newMove are the writes of a new move of that number.
func newMove(rec *controlpb.MoveRecord, number uint64) ([]clientv3.Op, error) {
	put, err := putMove(rec)
	return []clientv3.Op{put, clientv3.OpPut(controlclient.NextMoveKey, strconv.FormatUint(number+1, 10))}, err
}

func putMove(rec *controlpb.MoveRecord) (clientv3.Op, error) {
	value, err := proto.Marshal(rec)
	if err != nil {
		return clientv3.Op{}, fmt.Errorf("mover: %w", err)
	}
	return clientv3.OpPut(controlclient.MoveKey(rec.Move), string(value)), nil
}

func unavailable(err error) error {
	return waggle.Errorf(waggle.CodeUnavailable, "etcd does not answer (%v): try again", err)
}

// Cancel asks that a move be ended, and returns its record. With dry it only
// tells whether that is possible.
//
// Errors: [waggle.CodeConflict] when it is too late; [waggle.CodeBadRequest]
// when there is no such move; [waggle.CodeUnavailable].
func (b *Book) Cancel(ctx context.Context, id string, dry bool) (*controlpb.MoveRecord, error) {
	return b.ask(ctx, id, dry, move.Cancel, func(rec *controlpb.MoveRecord) { rec.Cancel = true })
}

// Revert asks that a move be made undone by a move back, and returns its
// record. With dry it only tells whether that is possible. Errors as those of
// [Book.Cancel].
func (b *Book) Revert(ctx context.Context, id string, dry bool) (*controlpb.MoveRecord, error) {
	return b.ask(ctx, id, dry, move.Revert, func(rec *controlpb.MoveRecord) { rec.Revert = true })
}

func (b *Book) ask(ctx context.Context, id string, dry bool, kind move.EventKind, set func(*controlpb.MoveRecord)) (*controlpb.MoveRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	key := controlclient.MoveKey(id)
	for range tries {
		got, err := b.etcd.Get(ctx, key)
		if err != nil {
			return nil, unavailable(err)
		}
		if len(got.Kvs) == 0 {
			return nil, waggle.Errorf(waggle.CodeBadRequest, "there is no move %.40q: `waggle moves ls` lists them", id)
		}
		rec := &controlpb.MoveRecord{}
		if err := proto.Unmarshal(got.Kvs[0].Value, rec); err != nil {
			return nil, fmt.Errorf("mover: %s: %w", key, err)
		}
		if _, _, err := move.Step(StateOf(rec), move.Event{Kind: kind, Now: time.Now()}); err != nil {
			return nil, err
		}
		if dry {
			return rec, nil
		}
		set(rec)
		put, err := putMove(rec)
		if err != nil {
			return nil, err
		}
		// The elected one may have gone on meanwhile: then look again.
		reply, err := b.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)).Then(put).Commit()
		if err != nil {
			return nil, unavailable(err)
		}
		if reply.Succeeded {
			return rec, nil
		}
	}
	return nil, waggle.Errorf(waggle.CodeUnavailable, "move %s changes too often just now: try again", id)
}
