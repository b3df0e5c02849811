package live

import (
	"errors"
	"slices"
	"testing"
)

func TestQueue(t *testing.T) {
	dropped := 0
	q := newQueue(func(n int) { dropped += n })
	taken := func() (pts []int64) {
		buf, _ := q.take(nil)
		for _, u := range buf {
			pts = append(pts, u.pts)
		}
		return pts
	}
	q.push(unit{pts: 1})
	q.push(unit{pts: 2, start: true})
	q.push(unit{pts: 3})
	if got := taken(); !slices.Equal(got, []int64{2, 3}) {
		t.Errorf("%v, it must begin where a viewer can", got)
	}
	for i := range int64(queueUnitsMax) {
		q.push(unit{pts: i})
	}
	q.push(unit{pts: 1000})
	q.push(unit{pts: 1001})
	q.push(unit{pts: 1002, start: true})
	q.push(unit{pts: 1003})
	if got := taken(); !slices.Equal(got, []int64{1002, 1003}) || dropped != queueUnitsMax+1 {
		t.Errorf("%v are left of a full queue, %d dropped", got, dropped)
	}
	q.push(unit{pts: 1, size: queueBytesMax + 1, start: true}) // alone, it may be as great as it is
	q.push(unit{pts: 2, size: 1, start: true})
	if got := taken(); !slices.Equal(got, []int64{2}) {
		t.Errorf("%v are left of a queue with too many bytes", got)
	}
	q.restart()
	q.push(unit{pts: 3})
	q.push(unit{pts: 4, start: true})
	q.close()
	q.push(unit{pts: 5, start: true})
	var got []int64
	if err := q.each(func(u unit) error { got = append(got, u.pts); return nil }); err != nil || !slices.Equal(got, []int64{4}) {
		t.Errorf("%v of a closed queue, %v", got, err)
	}
	fails := errors.New("fails")
	q = newQueue(func(int) {})
	q.push(unit{start: true})
	if err := q.each(func(unit) error { return fails }); !errors.Is(err, fails) {
		t.Errorf("ended with %v", err)
	}
}
