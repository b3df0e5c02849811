package bench

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// errNotHere says that a number cannot be had on this system.
var errNotHere = errors.New("not known on this system")

// usage is what servers, generator and machine have used until a moment.
type usage struct {
	at         time.Time
	memory     map[string]int64 // resident bytes by process name
	serverCPU  time.Duration
	ownCPU     time.Duration
	busy, idle time.Duration // of all CPUs of the machine
	slab       int64         // kernel memory in slabs, bytes
	sockets    int64         // kernel memory of TCP and UDP buffers, bytes
	missing    error         // why some of it is not known
}

// measure reads the moment's usage. Processes that cannot be read make
// missing, not zeros that look like a measurement.
func (c *cluster) measure() usage {
	u := usage{at: time.Now(), memory: map[string]int64{}}
	keep := func(err error) {
		if u.missing == nil {
			u.missing = err
		}
	}
	for _, p := range c.processes {
		bytes, cpu, err := readProcess(p.pid)
		if err != nil {
			keep(fmt.Errorf("process %d (%s): %w", p.pid, p.name, err))
			continue
		}
		u.memory[p.name] += bytes
		u.serverCPU += cpu
	}
	_, own, err := readProcess(os.Getpid())
	keep(err)
	u.ownCPU = own
	for _, pid := range c.generators {
		_, cpu, err := readProcess(pid)
		keep(err)
		u.ownCPU += cpu
	}
	u.busy, u.idle, err = readMachineCPU()
	keep(err)
	u.slab, u.sockets, err = readKernelMemory()
	keep(err)
	return u
}

func (u usage) memoryTotal() int64 {
	var sum int64
	for _, b := range u.memory {
		sum += b
	}
	return sum
}

// cores are how many CPUs d of CPU time is over the time between two usages.
func cores(d time.Duration, from, to usage) float64 {
	return d.Seconds() / to.at.Sub(from.at).Seconds()
}

// syncSampler writes and syncs 4 KiB now and then, so that a report can tell a
// slow disk from a slow server.
type syncSampler struct {
	stop chan struct{}
	wg   sync.WaitGroup
	hist *hdrhistogram.Histogram // owned by the goroutine until it is joined
	err  error
}

const syncEvery = 250 * time.Millisecond

func startSyncSampler(dir string) *syncSampler {
	s := &syncSampler{stop: make(chan struct{}), hist: newHistogram(3)}
	s.wg.Go(func() { s.err = s.run(filepath.Join(dir, "sync.tmp")) })
	return s
}

func (s *syncSampler) run(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close(); _ = os.Remove(path) }()
	buf := make([]byte, 4096)
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for n := int64(0); ; n++ {
		start := time.Now()
		if _, err := f.WriteAt(buf, n%256*4096); err != nil {
			return err
		}
		if err := syncData(f); err != nil {
			return err
		}
		_ = s.hist.RecordValue(max(time.Since(start).Microseconds(), 1))
		select {
		case <-tick.C:
		case <-s.stop:
			return nil
		}
	}
}

// end is the distribution, nil if it could not be had.
func (s *syncSampler) end() *Quantiles {
	close(s.stop)
	s.wg.Wait()
	if s.err != nil {
		return nil
	}
	return quantilesOf(s.hist)
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

// perIdle is what each of n idle connections takes of more CPUs than without
// them, in µs per second. It is not known where there are not more: then the
// servers still tidied up something while there were none.
func perIdle(more float64, n int) *float64 {
	if more < 0 || n == 0 {
		return nil
	}
	return some(round(1e6 * more / float64(n)))
}
