package bench

import (
	"fmt"

	"github.com/waggle-im/waggle/proto"
)

// The placements: in which cells the two of a pair live. Mixed is half of
// each.
const (
	SameCell  = "same-cell"
	CrossCell = "cross-cell"
	Mixed     = "mixed"
)

const sizeBytesMax = proto.TextBytesMax

// pair is two users by their number.
type pair struct{ a, b int }

// plan says who lives where and who writes to whom. Users come in slots of
// two, an even and an odd one; slot j's even user lives in cell j modulo the
// cells. Pair i joins the even user of slot i with an odd one of a slot of the
// same cell, another one with each lap through the slots.
type plan struct {
	cells []int // of each user, a number below the number of cells
	pairs []pair
}

func newPlan(users, pairs, cells int, placement string) (plan, error) {
	slots := users / 2
	if placement != SameCell && cells < 2 {
		return plan{}, fmt.Errorf("--placement %s needs two cells, there is %d: `waggle cells add` adds one", placement, cells)
	}
	p := plan{cells: make([]int, users)}
	for j := range slots {
		shift := 0
		if placement == CrossCell || placement == Mixed && j/cells%2 == 1 {
			shift = 1
		}
		p.cells[2*j], p.cells[2*j+1] = j%cells, (j+shift)%cells
	}
	for i := range pairs {
		j, lap := i%slots, i/slots
		c := j % cells
		inCell := (slots - c + cells - 1) / cells
		if lap >= inCell {
			return plan{}, fmt.Errorf("%d users in %d cells do not make %d different pairs: give more --users", users, cells, pairs)
		}
		p.pairs = append(p.pairs, pair{2 * j, 2*(c+cells*((j/cells+lap)%inCell)) + 1})
	}
	return p, nil
}
