package giveway

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// prober tells how late this process gets to things.
type prober interface {
	// sample is called once in a tick: now, where it should have been at due.
	sample(due, now time.Time) time.Duration
	close()
}

// fake is a prober that is told.
type fake func() time.Duration

func (f fake) sample(time.Time, time.Time) time.Duration { return f() }
func (f fake) close()                                    {}

// pipe is one to ourselves: how long a byte takes is what a message waits
// at each of its steps, for the network to be looked at and for a CPU.
type pipe struct {
	in, out *os.File
	due     atomic.Int64 // when the byte under way should have been sent, as time since start; 0: none is
	took    atomic.Int64 // of the last one that came
	start   time.Time
	done    chan struct{}
}

func newPipe() (*pipe, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("giveway: %w", err)
	}
	p := &pipe{in: in, out: out, start: time.Now(), done: make(chan struct{})}
	go p.receive() // ended and awaited by close
	return p, nil
}

func (p *pipe) receive() {
	defer close(p.done)
	var b [1]byte
	for {
		if _, err := p.out.Read(b[:]); err != nil {
			return
		}
		p.took.Store(int64(time.Since(p.start)) - p.due.Load())
		p.due.Store(0)
	}
}

// sample sends a byte, which was due a little before now, and tells how long
// the one before took, or has taken by now.
func (p *pipe) sample(due, now time.Time) time.Duration {
	if under := p.due.Load(); under != 0 {
		return now.Sub(p.start) - time.Duration(under)
	}
	late := time.Duration(p.took.Load())
	p.due.Store(int64(due.Sub(p.start)))
	_, _ = p.in.Write([]byte{0}) // one byte at a time: there is room
	return late
}

func (p *pipe) close() {
	_ = p.in.Close() // ends receive
	<-p.done
	_ = p.out.Close()
}
