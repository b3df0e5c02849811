package sim

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// seedEnv repeats one seed: SIM_SEED=17 go test -run TestFreshSeeds.
const seedEnv = "SIM_SEED"

// keptSeeds found something once, or are here to have a bit of everything in
// every run.
var keptSeeds = []struct {
	seed          uint64
	nodes, ranges int
	why           string
}{
	{seed: 1, nodes: 5, ranges: 20, why: "many ranges"},
	{seed: 2, nodes: 7, ranges: 8, why: "many nodes"},
	{seed: 3, nodes: 3, ranges: 4, why: "all nodes hold all ranges"},
	{seed: 251114156, nodes: 7, ranges: 20, why: "ids forgotten and sent again within one batch"},
}

// movesOf is a world in which ranges move, of one replica or of three.
func movesOf(seed uint64) options {
	return options{seed: seed, nodes: 2 * cellNodes, ranges: []int{2, 4, 6}[seed/2%3], ticks: 400, moves: true, replicas: []int{3, 1, 3}[seed%3]}
}

// shapeOf is the cluster a fresh seed is run on.
func shapeOf(seed uint64) options {
	if seed%2 == 1 {
		return movesOf(seed)
	}
	return options{seed: seed, nodes: []int{5, 6, 7}[seed%3], ranges: []int{6, 12, 20}[seed/3%3], ticks: 300}
}

// check runs a seed and fails the test with what is wrong.
func check(t *testing.T, opt options) trace {
	t.Helper()
	bad, tr := simulate(t, opt)
	for _, b := range bad {
		t.Errorf("seed %d: %s", opt.seed, b)
	}
	return tr
}

func TestKeptSeeds(t *testing.T) {
	total := map[string]int{}
	for _, k := range keptSeeds {
		tr := check(t, options{seed: k.seed, nodes: k.nodes, ranges: k.ranges, ticks: 300})
		t.Logf("seed %d settled %d ticks after the last fault", k.seed, tr.settleTicks)
		for what, n := range tr.counts {
			total[what] += n
		}
	}
	t.Log(total)
	for what, least := range map[string]int{
		"acknowledged": 500, "seen": 1000, "mingled": 1000, "updates beside messages": 500, "snapshot installed": 5, "power": 1, "start": 10, "granted": 50, "late refused": 20, "rows offered again": 5, "acknowledged again": 50,
	} {
		if total[what] < least {
			t.Errorf("%d × %q, want at least %d: the runs prove too little", total[what], what, least)
		}
	}
}

// keptMoves found something once in worlds where ranges move, or are here to
// have every turn of a move in every run.
var keptMoves = []struct {
	seed uint64
	why  string
}{
	{1, "one replica of each range"},
	{2, "three replicas"},
	{6, "three replicas"},
	{108758503, "a move back that was cancelled before it began left its learners for ever"},
	{503700157, "a move inside a cell was ended by the word of a replica that lagged, and left its old replica a learner"},
	{131354617, "an answer to a run of a program that was over counted as heard"},
	{741329971, "a replica told of the log it had before its snapshot"},
}

func TestKeptMoves(t *testing.T) {
	total := map[string]int{}
	for _, k := range keptMoves {
		tr := check(t, movesOf(k.seed))
		t.Logf("seed %d settled %d ticks after the last fault", k.seed, tr.settleTicks)
		for what, n := range tr.counts {
			total[what] += n
		}
	}
	t.Log(total)
	for what, least := range map[string]int{
		"owner changed": 10, "moved back": 1, "move cancelled": 1, "removed": 10, "mover dies": 5, "late effect": 20,
		"late change refused": 5, "late create refused": 2, "late remove refused": 2, "leadership given away": 5,
		"acknowledged": 200, "late refused": 10,
	} {
		if total[what] < least {
			t.Errorf("%d × %q, want at least %d: the runs prove too little", total[what], what, least)
		}
	}
}

// Fresh seeds for half a minute, or for LONG_TESTS_MINUTES (60) minutes with
// LONG_TESTS=1.
func TestFreshSeeds(t *testing.T) {
	if raw := os.Getenv(seedEnv); raw != "" {
		seed, err := strconv.ParseUint(raw, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q is not a seed", seedEnv, raw)
		}
		check(t, shapeOf(seed))
		return
	}
	box := 25 * time.Second
	if os.Getenv("LONG_TESTS") != "" {
		minutes, err := strconv.Atoi(os.Getenv("LONG_TESTS_MINUTES"))
		if err != nil {
			minutes = 60
		}
		box = time.Duration(minutes) * time.Minute
	}
	end := time.Now().Add(box)
	first := uint64(time.Now().UnixNano()) % 1_000_000_000
	seed := first
	for ; seed == first || time.Now().Before(end); seed++ {
		if check(t, shapeOf(seed)); t.Failed() {
			t.Fatalf("repeat it with %s=%d go test -run TestFreshSeeds ./cell/storage/sim, and keep it in keptSeeds", seedEnv, seed)
		}
	}
	t.Logf("seeds %d to %d", first, seed-1)
}

// One seed decides everything.
func TestASeedRepeats(t *testing.T) {
	for _, seed := range []uint64{11, 12} { // ranges move in the first
		opt := shapeOf(seed)
		opt.keepTrace = true
		one, two := check(t, opt), check(t, opt)
		for i := range min(len(one.each), len(two.each)) {
			if one.each[i] != two.each[i] {
				t.Fatalf("seed %d: event %d is %s and then %s", seed, i, one.each[i], two.each[i])
			}
		}
		if one.hash != two.hash || one.events != two.events {
			t.Errorf("seed %d: %d events and then %d", seed, one.events, two.events)
		}
		opt.seed++
		if other := check(t, opt); other.hash == one.hash {
			t.Error("another seed is the same run")
		}
	}
}

// In fair weather the host that answers early is right every time: what is
// found of it in TestPlantedAcknowledgeBeforeCommit is the early answer alone.
func TestForeseeingIsRight(t *testing.T) {
	tr := check(t, options{seed: 5, nodes: 5, ranges: 4, ticks: 200, fault: ackBeforeCommit, fair: true})
	if tr.counts["acknowledged"] < 50 {
		t.Errorf("only %d sends were acknowledged", tr.counts["acknowledged"])
	}
}

// mustFind has the judge find a planted fault within some seeds, and say what
// it is.
func mustFind(t *testing.T, f fault) {
	t.Helper()
	const seeds = 60
	for seed := range uint64(seeds) {
		opt := options{seed: seed, nodes: 5, ranges: 4, ticks: 300}
		if f.moves {
			opt = movesOf(seed)
		}
		opt.fault = f
		bad, _ := simulate(t, opt)
		for _, b := range bad {
			if slices.ContainsFunc(f.finds, func(name string) bool { return strings.Contains(b, name) }) {
				t.Logf("seed %d: %s", seed, b)
				return
			}
		}
		if len(bad) > 0 {
			t.Logf("seed %d, seen otherwise: %s", seed, bad[0])
		}
	}
	t.Errorf("planted fault not found within %d seeds: %s", seeds, f.name)
}

func TestPlantedSyncOff(t *testing.T)                 { mustFind(t, syncOff) }
func TestPlantedAcknowledgeBeforeCommit(t *testing.T) { mustFind(t, ackBeforeCommit) }
func TestPlantedNoDedupAfterRestart(t *testing.T)     { mustFind(t, noDedupAfterRestart) }
func TestPlantedStaleGrant(t *testing.T)              { mustFind(t, staleGrant) }
func TestPlantedStaleEpoch(t *testing.T)              { mustFind(t, staleEpoch) }
func TestPlantedChannelRowTwice(t *testing.T)         { mustFind(t, countTwice) }
func TestPlantedMapOrder(t *testing.T)                { mustFind(t, mapOrder) }
func TestPlantedSnapshotKeepsOldKeys(t *testing.T)    { mustFind(t, keepOldKeys()) }

func TestPlantedNoEpochFence(t *testing.T)       { mustFind(t, noEpochFence) }
func TestPlantedNoVersionFence(t *testing.T)     { mustFind(t, noVersionFence) }
func TestPlantedLeaveWithoutOwn(t *testing.T)    { mustFind(t, leaveWithoutOwn) }
func TestPlantedTransferUnready(t *testing.T)    { mustFind(t, transferUnready) }
func TestPlantedPromoteAnybody(t *testing.T)     { mustFind(t, promoteAnybody) }
func TestPlantedReplicaIDsReused(t *testing.T)   { mustFind(t, forgetTombstone) }
func TestPlantedRemovalKeepsState(t *testing.T)  { mustFind(t, removalKeepsState()) }
func TestPlantedCopyWithoutSent(t *testing.T)    { mustFind(t, copyWithoutSent) }
func TestPlantedCopyForgetsDeletes(t *testing.T) { mustFind(t, copyForgetsDeletes()) }
func TestPlantedRemovalByOlder(t *testing.T)     { mustFind(t, removeByOlder) }
