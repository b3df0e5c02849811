package latency

import "time"

// Seconds is how far back a [Recent] and a [Rate] know.
const Seconds = 10

// openSeconds is how long a thing that was begun and never ended counts as
// open: longer than anything that is still waited for.
const openSeconds = 64

// place is where a second has its place in a ring of n.
func place(second, n int64) int64 { return (second%n + n) % n }

// Recent counts what was begun and ended in the last seconds, and what is
// still open. The zero value is ready. It is for one goroutine.
type Recent struct {
	ended [Seconds + 1][Classes]uint32 // by the second of the end
	open  [openSeconds]uint32          // by the second of the beginning
	last  int64                        // the newest second that has a place
}

// Begin notes that something begins at now.
func (r *Recent) Begin(now time.Time) {
	r.advance(now)
	r.open[place(now.Unix(), openSeconds)]++
}

// End notes that what began then is over now.
func (r *Recent) End(began, now time.Time) {
	r.advance(now)
	if now.Unix()-began.Unix() < openSeconds && r.open[place(began.Unix(), openSeconds)] > 0 {
		r.open[place(began.Unix(), openSeconds)]--
	}
	r.ended[place(now.Unix(), Seconds+1)][Class(now.Sub(began))]++
}

// advance empties the places of seconds that begin anew.
func (r *Recent) advance(now time.Time) {
	second := now.Unix()
	for s := max(r.last+1, second-openSeconds+1); s <= second; s++ {
		r.ended[place(s, Seconds+1)] = [Classes]uint32{}
		r.open[place(s, openSeconds)] = 0
	}
	r.last = max(r.last, second)
}

// Counts are what ended in the last so many whole seconds and in the one that
// has begun, and what is open for at least a second, by its age: else nothing
// would be seen of what takes for ever.
func (r *Recent) Counts(now time.Time, seconds int) []uint64 {
	r.advance(now)
	out := make([]uint64, Classes)
	second := now.Unix()
	for s := second - int64(min(seconds, Seconds)); s <= second; s++ {
		for class, n := range r.ended[place(s, Seconds+1)] {
			out[class] += uint64(n)
		}
	}
	for age := int64(2); age < openSeconds; age++ {
		if n := r.open[place(second-age, openSeconds)]; n > 0 {
			out[Class(time.Duration(age-1)*time.Second)] += uint64(n)
		}
	}
	return out
}

// Rate counts events of the last seconds. The zero value is ready. It is for
// one goroutine.
type Rate struct {
	counts [Seconds + 1]uint32 // by second
	last   int64
}

// Add counts n events at now.
func (r *Rate) Add(now time.Time, n int) {
	r.advance(now)
	r.counts[place(now.Unix(), Seconds+1)] += uint32(n)
}

func (r *Rate) advance(now time.Time) {
	second := now.Unix()
	for s := max(r.last+1, second-Seconds); s <= second; s++ {
		r.counts[place(s, Seconds+1)] = 0
	}
	r.last = max(r.last, second)
}

// Count is how many there were in the last so many whole seconds.
func (r *Rate) Count(now time.Time, seconds int) (n uint64) {
	r.advance(now)
	second := now.Unix()
	for s := second - int64(min(seconds, Seconds)); s < second; s++ {
		n += uint64(r.counts[place(s, Seconds+1)])
	}
	return n
}
