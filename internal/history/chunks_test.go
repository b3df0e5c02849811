package history

import (
	"slices"
	"testing"
)

func TestChunksKeepTheOrder(t *testing.T) {
	for _, n := range []int{0, 1, chunkLen - 1, chunkLen, chunkLen + 1, 3*chunkLen + 7} {
		var c chunks[int]
		var want []int
		for i := range n {
			c.add(i)
			want = append(want, i)
		}
		for range 2 { // a copy leaves the list as it is
			if got := c.all(); !slices.Equal(got, want) {
				t.Errorf("%d: %d come back, or in another order", n, len(got))
			}
		}
		c.add(n)
		if got := c.all(); !slices.Equal(got, append(want, n)) {
			t.Errorf("%d and one: %d come back", n, len(got))
		}
	}
}
