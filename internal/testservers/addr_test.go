package testservers

import "testing"

// TestAddrsDiffer: who asks for several listens on them later.
func TestAddrsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range slicePorts / 2 {
		addr := FreeAddr(t)
		if seen[addr] {
			t.Fatalf("%s is given twice", addr)
		}
		seen[addr] = true
	}
}
