package history

import "slices"

// chunkLen is how many records one piece of memory holds.
const chunkLen = 4096

// chunks is a list that is not copied when it grows. To grow a slice of tens of
// megabytes takes as long as several messages do, and meanwhile everybody waits
// who has something to record.
type chunks[T any] struct {
	full [][]T
	last []T
}

func (c *chunks[T]) add(v T) {
	if len(c.last) == chunkLen {
		c.full, c.last = append(c.full, c.last), make([]T, 0, chunkLen)
	}
	c.last = append(c.last, v)
}

// all is a copy.
func (c *chunks[T]) all() []T {
	return slices.Concat(append(c.full[:len(c.full):len(c.full)], c.last)...)
}
