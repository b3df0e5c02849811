package ceiling

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// followers are the connections of a leader to those who keep copies. One that
// goes away is an error, though the other would do: what is measured then has
// no three copies.
type followers struct {
	conns []net.Conn
	wg    sync.WaitGroup // of those who listen to them
	sent  int            // batches

	mu     sync.Mutex // guards the fields below
	synced sync.Cond
	most   int // batches that the fastest has synced
	err    error
}

func dialFollowers(ctx context.Context, addrs []string) (*followers, error) {
	f := &followers{}
	f.synced.L = &f.mu
	for _, addr := range addrs {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			f.close()
			return nil, fmt.Errorf("ceiling: follower: %w", err)
		}
		f.conns = append(f.conns, conn)
		f.wg.Go(func() { f.listen(conn) })
	}
	return f, nil
}

// close ends what waits for an answer.
func (f *followers) close() {
	for _, conn := range f.conns {
		_ = conn.Close()
	}
	f.wg.Wait()
}

func (f *followers) listen(conn net.Conn) {
	r := bufio.NewReader(conn)
	for n := 1; ; n++ {
		_, err := readFrame(r)
		f.mu.Lock()
		if err == nil {
			f.most = max(f.most, n)
		} else {
			f.err = errors.Join(f.err, fmt.Errorf("follower: %w", err))
		}
		f.synced.Signal()
		f.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (f *followers) send(batch []byte) error {
	f.sent++
	frame := frameOf(batch)
	for _, conn := range f.conns {
		if _, err := conn.Write(frame); err != nil {
			return fmt.Errorf("follower: %w", err)
		}
	}
	return nil
}

// wait returns when one follower has synced all that was sent.
func (f *followers) wait() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.most < f.sent && f.err == nil {
		f.synced.Wait()
	}
	return f.err
}

// follow keeps the copy of one leader, until that goes away or ctx ends.
func follow(ctx context.Context, l net.Listener, db *pebble.DB) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	conn, err := l.Accept()
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("ceiling: no leader: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	r := bufio.NewReader(conn)
	for {
		frame, err := readFrame(r)
		if err != nil {
			return nil // the leader has gone, and knows why
		}
		b := db.NewBatch()
		if err := b.SetRepr(frame); err != nil {
			return fmt.Errorf("ceiling: a batch: %w", err)
		}
		if err := errors.Join(b.Commit(pebble.Sync), b.Close()); err != nil {
			return fmt.Errorf("ceiling: write: %w", err)
		}
		if _, err := conn.Write(frameOf(nil)); err != nil {
			return nil
		}
	}
}
