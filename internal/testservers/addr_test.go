package testservers

import "testing"

// An address is not given twice, though nobody listens on it yet: of a third of
// all there are, some were.
func TestFreeAddrIsNobodyElses(t *testing.T) {
	given := map[string]bool{}
	for range 1_600 {
		addr := FreeAddr(t)
		if given[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		given[addr] = true
	}
}
