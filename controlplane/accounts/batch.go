package accounts

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/waggle-im/waggle/proto"
)

const (
	// writesQueued bounds the writes that wait; past it new ones are refused.
	writesQueued = 4096
	// writesPerBatch bounds one transaction.
	writesPerBatch = 256
	// writeTimeout bounds one transaction.
	writeTimeout = 10 * time.Second
	// conflictRetries is how often a transaction that the database undid is
	// repeated.
	conflictRetries = 5
)

// write is one change of the table; do runs inside a transaction, perhaps
// several times, and must not keep results of an earlier run. A broken unique
// rule undoes its statement only.
type write struct {
	do   func(context.Context, *sql.Tx) error
	err  error
	done chan struct{}
}

// writer joins writes that come at the same time into one transaction, so
// that a thousand registrations do not wait for a thousand syncs. There is no
// goroutine: one of those who wait does the work of all.
type writer struct {
	db      *sql.DB
	dialect dialect
	queue   chan *write
	turn    chan struct{} // held by the one who works
}

func newWriter(db *sql.DB, d dialect) *writer {
	return &writer{db: db, dialect: d, queue: make(chan *write, writesQueued), turn: make(chan struct{}, 1)}
}

// write runs do and returns when it is durable. It does not give up half way
// when ctx ends: whoever waits behind would suffer.
func (w *writer) write(do func(context.Context, *sql.Tx) error) error {
	op := &write{do: do, done: make(chan struct{})}
	select {
	case w.queue <- op:
	default:
		return proto.Errorf(proto.CodeOverloaded, "too many accounts are being written: try again in a moment")
	}
	for {
		select {
		case <-op.done:
			return op.err
		case w.turn <- struct{}{}:
			w.flush()
			<-w.turn
		}
	}
}

// flush commits what waits, up to one batch.
func (w *writer) flush() {
	var batch []*write
	for len(batch) < writesPerBatch {
		select {
		case op := <-w.queue:
			batch = append(batch, op)
			continue
		default:
		}
		break
	}
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	err := w.commit(ctx, batch)
	for range conflictRetries {
		if err == nil || !w.dialect.again(err) {
			break
		}
		err = w.commit(ctx, batch)
	}
	for _, op := range batch {
		if err != nil {
			op.err = err
		}
		close(op.done)
	}
}

func (w *writer) commit(ctx context.Context, batch []*write) error {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	for _, op := range batch {
		if op.err = op.do(ctx, tx); op.err != nil && w.dialect.again(op.err) {
			_ = tx.Rollback()
			return op.err
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	return nil
}
