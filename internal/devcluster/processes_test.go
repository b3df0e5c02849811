package devcluster

import (
	"slices"
	"testing"
)

func TestChildEnv(t *testing.T) {
	for _, c := range []struct {
		environ []string
		cpus    int
		want    []string
	}{
		{[]string{"HOME=/"}, 1, []string{"HOME=/", "GOMAXPROCS=1"}},
		{[]string{"HOME=/"}, 2, []string{"HOME=/", "GOMAXPROCS=1"}},
		{nil, 16, []string{"GOMAXPROCS=8"}},
		{[]string{"GOMAXPROCS=2", "HOME=/"}, 16, []string{"GOMAXPROCS=2", "HOME=/"}},
	} {
		if got := childEnv(c.environ, c.cpus); !slices.Equal(got, c.want) {
			t.Errorf("%v with %d CPUs: %v, want %v", c.environ, c.cpus, got, c.want)
		}
	}
}
