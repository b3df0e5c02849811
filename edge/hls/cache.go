package hls

import (
	"container/list"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
)

const (
	// objectBytesMax bounds one playlist, part or segment: 8 s at 32 Mbit/s.
	objectBytesMax = 32 << 20
	// playlistFresh is how long a playlist is given to others: below a part, so
	// that nobody falls behind by it.
	playlistFresh = 200 * time.Millisecond
	// blockingFresh is the same for one that was waited for by number: what was
	// asked for is in it, whenever it is read.
	blockingFresh = time.Second
	// keepUnused is how long something is kept that nobody asks for: a playlist
	// names the last few segments, less than a minute.
	keepUnused = time.Minute
	// fetchTimeout bounds one request to the node. A blocking one waits for three
	// target durations at most.
	fetchTimeout = 30 * time.Second
	// flightsMax bounds the requests to nodes at once.
	flightsMax = 4096
)

// object is something a node has given.
type object struct {
	key         string
	contentType string
	body        []byte
	expires     time.Time // zero: never
	used        time.Time // last; guarded by the cache's mu
}

// flight is a request to a node that is under way.
type flight struct {
	done chan struct{} // closed when the fields below are set
	got  *object
	err  error
}

// cache keeps objects and joins requests for the same.
type cache struct {
	fetch func(ctx context.Context, key string) (*http.Response, error)
	now   func() time.Time
	limit int

	wg     sync.WaitGroup
	ctx    context.Context // of the requests
	cancel context.CancelFunc

	mu      sync.Mutex // guards the fields below
	closed  bool
	flights map[string]*flight
	objects map[string]*list.Element // of *object
	recent  *list.List               // the ones used last come first
	bytes   int
}

func newCache(limit int, fetch func(context.Context, string) (*http.Response, error)) *cache {
	c := &cache{
		fetch: fetch, now: time.Now, limit: limit, flights: map[string]*flight{}, objects: map[string]*list.Element{}, recent: list.New(),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// close ends all requests and waits for them.
func (c *cache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// get gives what is at key: kept, or fetched once for all who wait.
func (c *cache) get(ctx context.Context, key string) (*object, error) {
	c.mu.Lock()
	if e := c.objects[key]; e != nil {
		o := e.Value.(*object)
		if o.expires.IsZero() || c.now().Before(o.expires) {
			o.used = c.now()
			c.recent.MoveToFront(e)
			c.mu.Unlock()
			return o, nil
		}
		c.drop(e)
	}
	f := c.flights[key]
	if f == nil {
		if c.closed || len(c.flights) >= flightsMax {
			c.mu.Unlock()
			return nil, proto.Errorf(proto.CodeOverloaded, "too much is asked of this edge just now")
		}
		f = &flight{done: make(chan struct{})}
		c.flights[key] = f
		c.wg.Go(func() { c.fly(key, f) })
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.got, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fly fetches for all who wait, however many of them go.
func (c *cache) fly(key string, f *flight) {
	ctx, cancel := context.WithTimeout(c.ctx, fetchTimeout)
	defer cancel()
	f.got, f.err = c.read(ctx, key)
	c.mu.Lock()
	if c.flights[key] == f {
		delete(c.flights, key)
		if f.err == nil {
			c.keep(f.got)
		}
	}
	c.mu.Unlock()
	close(f.done)
}

func (c *cache) read(ctx context.Context, key string) (*object, error) {
	resp, err := c.fetch(ctx, key)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, objectBytesMax+1))
	if err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "the livestream's node did not answer whole")
	}
	if len(body) > objectBytesMax {
		return nil, proto.Errorf(proto.CodeTooBig, "a part of the livestream has more than %d bytes", objectBytesMax)
	}
	o := &object{key: key, contentType: resp.Header.Get("Content-Type"), body: body}
	switch path, query, _ := strings.Cut(key, "?"); {
	case !strings.HasSuffix(path, ".m3u8"):
	case strings.Contains(query, paramMSN):
		o.expires = c.now().Add(blockingFresh)
	default:
		o.expires = c.now().Add(playlistFresh)
	}
	return o, nil
}

// keep needs mu.
func (c *cache) keep(o *object) {
	if e := c.objects[o.key]; e != nil {
		c.drop(e)
	}
	o.used = c.now()
	c.objects[o.key] = c.recent.PushFront(o)
	c.bytes += len(o.body) + len(o.key)
	for last := c.recent.Back(); c.bytes > c.limit || o.used.Sub(last.Value.(*object).used) > keepUnused; last = c.recent.Back() {
		c.drop(last)
	}
}

// drop needs mu.
func (c *cache) drop(e *list.Element) {
	o := c.recent.Remove(e).(*object)
	delete(c.objects, o.key)
	c.bytes -= len(o.body) + len(o.key)
}

// forget drops all whose key begins with prefix. What is under way is given to
// those who wait and not kept.
func (c *cache) forget(prefix string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.objects {
		if strings.HasPrefix(key, prefix) {
			c.drop(e)
		}
	}
	for key := range c.flights {
		if strings.HasPrefix(key, prefix) {
			delete(c.flights, key)
		}
	}
}
