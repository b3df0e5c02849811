package testcluster

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// long tells whether the long forms of tests are asked for.
func long() bool { return os.Getenv("LONG_TESTS") != "" }

// Admins are the admin addresses of the nodes that are alive. They go on
// answering when no control plane does.
func (c *Cluster) Admins() map[string]string {
	c.t.Helper()
	out := map[string]string{}
	c.Until("nodes are listed", func() error {
		nodes, err := c.verbs.ListNodes(c.Context(), &controlpb.ListNodesRequest{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Nodes {
			if n.State == "alive" {
				out[n.Node] = n.Admin
			}
		}
		return nil
	})
	return out
}

// Gauges are the metrics of the process at an admin address, summed over
// labels.
func (c *Cluster) Gauges(admin string) map[string]float64 {
	c.t.Helper()
	out := map[string]float64{}
	c.Until(admin+" tells its metrics", func() error {
		resp, err := http.Get("http://" + admin + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			line := lines.Text()
			end := strings.IndexAny(line, "{ ")
			if end < 0 || strings.HasPrefix(line, "#") {
				continue
			}
			if v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64); err == nil {
				out[line[:end]] += v
			}
		}
		return nil
	})
	return out
}

// CollectGarbage makes the process at an admin address give back what it does
// not use.
func (c *Cluster) CollectGarbage(admin string) {
	c.t.Helper()
	c.Until(admin+" has collected garbage", func() error {
		resp, err := http.Post("http://"+admin+"/debug/gc", "", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	})
}

// Level is what a server process holds, after a garbage collection.
type Level struct {
	Goroutines, Descriptors float64
	HeapBytes               float64
}

// Level measures the process at an admin address.
func (c *Cluster) Level(admin string) Level {
	c.t.Helper()
	c.CollectGarbage(admin)
	g := c.Gauges(admin)
	return Level{g["go_goroutines"], g["process_open_fds"], g["go_memstats_heap_alloc_bytes"]}
}

// String is for people.
func (l Level) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f descriptors, heap %.1f MB", l.Goroutines, l.Descriptors, l.HeapBytes/1e6)
}

// Talkers are pairs of people whose messages are timed.
type Talkers struct {
	c     *Cluster
	pairs []talkers
}

type talkers struct {
	ann, bob *Device
	thread   string
}

// StartTalkers makes pairs of people in c1 and c2, half of them on QUIC.
func (c *Cluster) StartTalkers(pairs int) *Talkers {
	c.t.Helper()
	w := &Talkers{c: c}
	for i := range pairs {
		transport := client.TCP
		if i%2 == 1 {
			transport = client.QUIC
		}
		ann, bob := c.AddUser(fmt.Sprintf("talker-a%d", i), "c1"), c.AddUser(fmt.Sprintf("talker-b%d", i), "c2")
		w.pairs = append(w.pairs, talkers{
			c.Connect(ann, transport, nil), c.Connect(bob, transport, nil), proto.DirectThread(ann.ID, bob.ID).String(),
		})
	}
	return w
}

// talkEvery is the pause between two messages of one pair.
const talkEvery = 10 * time.Millisecond

// Times are how long acknowledgements took.
type Times struct {
	N             int
	P50, P99, Max time.Duration
}

// String is for people.
func (t Times) String() string {
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	return fmt.Sprintf("%d messages, p50 %s, p99 %s, slowest %s", t.N, round(t.P50), round(t.P99), round(t.Max))
}

// Talk lets every pair write for a while, one message after the other.
func (w *Talkers) Talk(d time.Duration) Times {
	w.c.t.Helper()
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	ctx := w.c.Context()
	end := time.Now().Add(d)
	for _, p := range w.pairs {
		wg.Go(func() {
			for pause := time.NewTicker(talkEvery); time.Now().Before(end); <-pause.C {
				began := time.Now()
				if _, err := p.ann.Send(ctx, p.thread, "how long does this take"); err != nil {
					w.c.t.Errorf("%s: %v", p.ann.User.Name, err)
					return
				}
				mu.Lock()
				all = append(all, time.Since(began))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(all) == 0 {
		return Times{}
	}
	slices.Sort(all)
	return Times{len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)-1]}
}

// Check wants that nobody was disconnected and everybody has everything.
func (w *Talkers) Check() {
	w.c.t.Helper()
	for _, p := range w.pairs {
		n := len(w.c.History(p.ann, p.thread))
		w.c.WaitTexts(p.bob, p.thread, n)
		for _, d := range []*Device{p.ann, p.bob} {
			if lost := d.Disconnects(); lost > 0 {
				w.c.t.Errorf("%s was disconnected %d times", d.User.Name, lost)
			}
		}
	}
}
