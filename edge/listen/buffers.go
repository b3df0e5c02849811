package listen

import "sync"

// readBytes is how much a poller reads at a time.
const readBytes = 16 << 10

// pool lends byte slices of readBytes. What is borrowed must be given back
// before waiting for a peer.
type pool struct{ free sync.Pool }

func (p *pool) get() *[]byte {
	if b, ok := p.free.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, readBytes)
	return &b
}

// put takes b back; one that grew far is left to the collector.
func (p *pool) put(b *[]byte) {
	if cap(*b) >= readBytes && cap(*b) <= 4*readBytes {
		*b = (*b)[:cap(*b)]
		p.free.Put(b)
	}
}
