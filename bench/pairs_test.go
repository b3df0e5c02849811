package bench

import (
	"fmt"
	"testing"
)

// Pairs are of two different users, no two of them the same, and live where
// the placement says.
func TestPlan(t *testing.T) {
	for _, c := range []struct {
		users, pairs, cells int
		placement           string
		inOneCell           func(pairs int) int
	}{
		{1000, 500, 2, SameCell, func(n int) int { return n }},
		{1000, 500, 2, CrossCell, func(int) int { return 0 }},
		{1000, 500, 2, Mixed, func(n int) int { return n / 2 }},
		{20, 45, 2, SameCell, func(n int) int { return n }},
		{20, 45, 2, CrossCell, func(int) int { return 0 }},
		{22, 30, 3, CrossCell, func(int) int { return 0 }},
		{2, 1, 1, SameCell, func(n int) int { return n }},
	} {
		t.Run(fmt.Sprintf("%d users %d pairs %d cells %s", c.users, c.pairs, c.cells, c.placement), func(t *testing.T) {
			p, err := newPlan(c.users, c.pairs, c.cells, c.placement)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.cells) != c.users || len(p.pairs) != c.pairs {
				t.Fatalf("%d users and %d pairs", len(p.cells), len(p.pairs))
			}
			seen := map[pair]bool{}
			same := 0
			for _, pair := range p.pairs {
				if pair.a == pair.b || seen[pair] {
					t.Fatalf("pair %v is nobody's or there already", pair)
				}
				seen[pair] = true
				if p.cells[pair.a] == p.cells[pair.b] {
					same++
				}
			}
			if want := c.inOneCell(c.pairs); same != want {
				t.Errorf("%d pairs live in one cell, want %d", same, want)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	if _, err := newPlan(4, 2, 1, CrossCell); err == nil {
		t.Error("pairs across cells with one cell")
	}
	if _, err := newPlan(4, 5, 1, SameCell); err == nil {
		t.Error("five different pairs of four users in turns")
	}
}
