package ceiling

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

const (
	kindWelcome = 'w'
	kindAck     = 'a'
	kindPush    = 'p'
	// frameBytesMax bounds a frame between leader and follower, the longest.
	frameBytesMax = 64 << 20
	// queueBytesMax bounds what waits for the next batch; who reads more waits.
	// A batch of so much is well below frameBytesMax, whatever the size of the
	// messages.
	queueBytesMax = 4 << 20
	// writers write to people while the next batch is synced. Each may be so
	// many batches behind before the next one waits.
	writers      = 2
	batchesAhead = 8
)

// send is a message on its way through the server.
type send struct {
	from, to uint32
	body     []byte
}

// server is the leader, or the only one.
type server struct {
	db        *pebble.DB
	followers *followers // nil: one copy

	mu     sync.Mutex // guards the fields below
	wake   sync.Cond  // for who waits for messages
	room   sync.Cond  // for who waits until there are fewer
	queue  []send
	queued int // bytes
	people map[uint32]*person
	closed bool
}

// person is a connection. Its buffer belongs to the writer of its number.
type person struct {
	conn net.Conn
	out  []byte
}

// openStore makes a store in a folder that has none.
func openStore(dir string) (*pebble.DB, error) {
	return pebble.Open(dir, &pebble.Options{Logger: quiet{}, MemTableSize: 64 << 20, ErrorIfExists: true})
}

// quiet says only what is wrong.
type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(format string, a ...any) { fmt.Fprintf(os.Stderr, "pebble: "+format+"\n", a...) }
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

func newServer(db *pebble.DB) *server {
	s := &server{db: db, people: map[uint32]*person{}}
	s.wake.L, s.room.L = &s.mu, &s.mu
	return s
}

// serve accepts people until ctx ends. What breaks after that is no error.
func (s *server) serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		s.close(l)
	})
	committed := make([]chan []send, writers)
	for i := range committed {
		committed[i] = make(chan []send, batchesAhead)
		wg.Go(func() { s.write(i, committed[i]) })
	}
	wg.Go(func() { cancel(s.commitAll(committed)) }) // without it there is nothing to serve
	for {
		conn, err := l.Accept()
		if err != nil {
			cancel(fmt.Errorf("ceiling: accept: %w", err)) // or the listener was closed
			break
		}
		wg.Go(func() { s.read(ctx, conn, config) })
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// close wakes up all who wait. The connections of people end with their readers.
func (s *server) close(l net.Listener) {
	_ = l.Close()
	s.mu.Lock()
	s.closed = true
	s.wake.Broadcast()
	s.room.Broadcast()
	s.mu.Unlock()
	if s.followers != nil {
		s.followers.close()
	}
}

// read takes a person's frames until its connection or ctx ends.
func (s *server) read(ctx context.Context, raw net.Conn, config *tls.Config) {
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	conn := tls.Server(raw, config)
	r := bufio.NewReaderSize(conn, 4<<10)
	var id [4]byte
	if _, err := io.ReadFull(r, id[:]); err != nil {
		return
	}
	from := binary.BigEndian.Uint32(id[:])
	s.mu.Lock()
	s.people[from] = &person{conn: conn}
	s.mu.Unlock()
	if _, err := conn.Write(frameOf([]byte{kindWelcome})); err != nil {
		return
	}
	for {
		frame, err := readFrame(r)
		if err != nil || len(frame) < 4 {
			return // the person finds out
		}
		s.put(send{from, binary.BigEndian.Uint32(frame), frame[4:]})
	}
}

// put queues a message, and waits while there are too many.
func (s *server) put(m send) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queued >= queueBytesMax && !s.closed {
		s.room.Wait()
	}
	s.queue = append(s.queue, m)
	s.queued += len(m.body) + 4 // an empty one counts too
	if len(s.queue) == 1 {
		s.wake.Signal()
	}
}

// take waits for messages and takes all there are. None: the server closes.
func (s *server) take() []send {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.closed {
		s.wake.Wait()
	}
	if s.closed {
		return nil
	}
	out := s.queue
	s.queue, s.queued = make([]send, 0, len(out)), 0
	s.room.Broadcast()
	return out
}

// commitAll writes batch after batch and passes each to the writers, which own
// it from then on.
func (s *server) commitAll(committed []chan []send) error {
	defer func() {
		for _, c := range committed {
			close(c)
		}
	}()
	var seq uint64
	for {
		sends := s.take()
		if sends == nil {
			return nil
		}
		b := s.db.NewBatch()
		var key [8]byte
		for _, m := range sends {
			seq++
			binary.BigEndian.PutUint64(key[:], seq)
			if err := b.Set(key[:], m.body, nil); err != nil {
				return fmt.Errorf("ceiling: write: %w", err)
			}
		}
		if err := errors.Join(s.commit(b), b.Close()); err != nil {
			return fmt.Errorf("ceiling: write: %w", err)
		}
		for _, c := range committed {
			c <- sends
		}
	}
}

// commit returns when a majority has synced the batch, this process among it.
func (s *server) commit(b *pebble.Batch) error {
	if s.followers == nil {
		return b.Commit(pebble.Sync)
	}
	if err := s.followers.send(b.Repr()); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	return s.followers.wait()
}

// write acknowledges and pushes what one of the writers has to.
func (s *server) write(n int, committed <-chan []send) {
	var touched []*person
	add := func(id uint32, kind byte, body []byte) {
		if int(id)%writers != n {
			return
		}
		s.mu.Lock()
		p := s.people[id]
		s.mu.Unlock()
		if p == nil {
			return
		}
		if len(p.out) == 0 {
			touched = append(touched, p)
		}
		p.out = binary.BigEndian.AppendUint32(p.out, uint32(1+len(body)))
		p.out = append(append(p.out, kind), body...)
	}
	for sends := range committed {
		for _, m := range sends {
			add(m.from, kindAck, nil)
			add(m.to, kindPush, m.body)
		}
		for _, p := range touched {
			_, _ = p.conn.Write(p.out) // its reader finds out
			p.out = p.out[:0]
		}
		touched = touched[:0]
	}
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > frameBytesMax {
		return nil, fmt.Errorf("ceiling: a frame of %d bytes, at most %d", n, frameBytesMax)
	}
	frame := make([]byte, n)
	_, err := io.ReadFull(r, frame)
	return frame, err
}

func frameOf(payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(payload)), uint32(len(payload))), payload...)
}
