package latency

import (
	"math"
	"sort"
	"time"
)

const (
	// Classes is how many there are. The last one holds all that is longer.
	Classes = 56
	// first is the upper bound of the first class, growth that of the others
	// over the one before: the last but one ends above a minute.
	first  = 250 * time.Microsecond
	growth = 1.25
)

// Bound is the upper bound of a class; of the last, the longest time there is.
func Bound(class int) time.Duration {
	if class >= Classes-1 {
		return math.MaxInt64
	}
	return time.Duration(float64(first) * math.Pow(growth, float64(class)))
}

// Class is the class of a time.
func Class(d time.Duration) int {
	return sort.Search(Classes-1, func(i int) bool { return d <= Bound(i) })
}

// Add adds the counts of more to sum, which it returns, grown if it was empty.
func Add(sum, more []uint64) []uint64 {
	if sum == nil {
		sum = make([]uint64, Classes)
	}
	for i := range min(len(sum), len(more)) {
		sum[i] += more[i]
	}
	return sum
}

// Count is how many times were counted.
func Count(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// Quantile is the upper bound of the class in which the share q of what was
// counted ends, at most a quarter too much; 0 if nothing was. Of the last class
// it is the lower bound.
func Quantile(counts []uint64, q float64) time.Duration {
	want := uint64(math.Ceil(q * float64(Count(counts))))
	var seen uint64
	for class, c := range counts {
		if seen += c; c > 0 && seen >= want {
			return Bound(min(class, Classes-2))
		}
	}
	return 0
}
