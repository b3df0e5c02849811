package bench

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/testcluster"
	"github.com/waggle-im/waggle/internal/testservers"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", path, got)
	}
}

// sampleStep is a step of made-up numbers.
func sampleStep(rate, p99, busy float64, broke string) LimitStep {
	s := LimitStep{
		Phase: "growing", OfferedPS: rate, Seconds: 5, Due: int64(5 * rate), InBar: int64(5 * rate), AckedPS: rate,
		AckMs: &Quantiles{P50: p99 / 5, P90: p99 / 2, P99: p99, P999: 2 * p99, Max: 3 * p99}, LagMs: &Quantiles{P50: 0.1, P99: 0.5, Max: 2},
		BusyShare: some(busy), ServerCPUs: some(1.2 * busy), OwnCPUs: some(0.7 * busy), OtherCPUs: some(0.1 * busy), Passed: broke == "", Broke: broke,
	}
	if broke != "" {
		s.InBar, s.Late = int64(4*rate), int64(rate)
	}
	return s
}

func sampleLimits() *Result {
	over := sampleStep(25_600, 2345, 1, brokeCPU)
	over.Phase, over.AckedPS, over.Refusals = "twice the knee", 12_100, map[string]int{"overloaded": 1234, "not ready": 5}
	f := &Limits{
		Cell: "c1", BarMs: 50, KneePerSecond: some(12_800), Broke: brokeCPU, Overload: &over, OverloadShare: some(0.945),
		Connections: LimitConnections{Asked: 10_000, Bound: 9_000, BoundedBy: "9,756 descriptors of the edges", Held: 9_000, Points: []RampPoint{
			{3_000, 30 << 20, 28 << 20, 2.5}, {6_000, 59 << 20, 55 << 20, 2.7}, {9_000, 88 << 20, 83 << 20, 3.1},
		}},
		Steps: []LimitStep{
			sampleStep(1_000, 2.5, 0.15, ""), sampleStep(4_000, 4, 0.4, ""), sampleStep(12_800, 21, 0.86, ""),
			sampleStep(16_000, 412, 0.99, brokeCPU), sampleStep(16_000, 398, 0.99, brokeCPU),
		},
		Headroom: Headroom{CPUBusyShare: some(0.86), ServerCPUs: some(1.03), OwnCPUs: some(0.6), MemoryUsed: 3 << 30, MemoryTotal: 24 << 30, Descriptors: 9_544, DescriptorsLimit: 20_000},
	}
	f.Detail = f.Steps[4].describe()
	return &Result{
		Mode: "limits", Transport: "tcp", Placement: SameCell, Connections: 9_500, OfferedRate: 12_800, Sent: 200_000, Acked: 200_000, Received: 200_000,
		Errors: map[string]int{}, AckMs: f.Steps[2].AckMs, ServerBytesPerConnection: some(10_252.3), KernelBytesPerConnection: some(9_670.3),
		CPUUsPerIdleConnection: some(2.4), ConnectsPerSecond: some(1084.3), CPUUsPerMessage: some(80.6), LimitedBy: "CPU: " + f.Detail, Limits: f,
	}
}

func TestLimitsReport(t *testing.T) {
	golden(t, "limits.md", limitsText(sampleLimits()))

	generator := sampleLimits()
	run := &limitsRun{found: *generator.Limits}
	run.found.KneePerSecond, run.found.Overload, run.found.OverloadShare = nil, nil, nil
	for i := 3; i < 5; i++ {
		late := &run.found.Steps[i]
		late.LagMs, late.BusyShare, late.Passed = &Quantiles{P50: 3, P99: 31, Max: 80}, some(0.6), false
		late.judge(50*time.Millisecond, 0)
	}
	run.conclude(12_800)
	generator.Limits = &run.found
	golden(t, "limits-generator.md", limitsText(generator))
	if run.found.KneePerSecond != nil || generator.Faults() == nil || !strings.Contains(generator.Faults().Error(), "another machine") {
		t.Errorf("the generator's limit passes for the cell's: %+v, %v", run.found.KneePerSecond, generator.Faults())
	}

	bound := sampleLimits()
	run = &limitsRun{cfg: LimitsConfig{RateMax: 12_800}, found: *bound.Limits}
	run.found.Steps = run.found.Steps[:3]
	run.conclude(12_800)
	bound.Limits = &run.found
	golden(t, "limits-bound.md", limitsText(bound))

	none := sampleLimits()
	run = &limitsRun{found: *none.Limits}
	run.found.Steps, run.found.KneePerSecond, run.found.Overload, run.found.OverloadShare = run.found.Steps[3:], nil, nil, nil
	run.conclude(0)
	none.Limits = &run.found
	golden(t, "limits-none.md", limitsText(none))
}

// What breaks a step is told apart by its numbers.
func TestStepJudged(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*LimitStep)
		errors int
		broke  string
	}{
		{"holds", func(*LimitStep) {}, 0, ""},
		{"holds, just", func(s *LimitStep) { s.InBar = 99 * s.Due / 100 }, 0, ""},
		{"holds, though the generator lags", func(s *LimitStep) { s.LagMs.P99 = 30 }, 0, ""},
		{"too late", func(s *LimitStep) { s.InBar = 98 * s.Due / 100 }, 0, brokeLatency},
		{"nothing was due", func(s *LimitStep) { s.Due, s.InBar = 0, 0 }, 0, brokeLatency},
		{"cut short", func(s *LimitStep) { s.CutShort = true }, 0, brokeLatency},
		{"no CPU left", func(s *LimitStep) { s.InBar, s.BusyShare = 0, some(0.95) }, 0, brokeCPU},
		{"no CPU left, for the generator neither", func(s *LimitStep) { s.InBar, s.BusyShare, s.LagMs.P99 = 0, some(0.95), 40 }, 0, brokeCPU},
		{"the generator lags with idle CPU", func(s *LimitStep) { s.InBar, s.LagMs.P99 = 0, 13 }, 0, brokeGenerator},
		{"failed sends", func(*LimitStep) {}, 1, brokeErrors},
		{"no numbers", func(s *LimitStep) { s.InBar, s.BusyShare = 0, nil }, 0, brokeUnknown},
		{"no numbers, and the generator lags", func(s *LimitStep) { s.InBar, s.BusyShare, s.LagMs.P99 = 0, nil, 13 }, 0, brokeGenerator},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sampleStep(1000, 10, 0.5, "")
			s.Passed = false
			c.change(&s)
			s.judge(50*time.Millisecond, c.errors)
			if s.Broke != c.broke || s.Passed != (c.broke == "") {
				t.Errorf("passed %v, broke %q, want %q", s.Passed, s.Broke, c.broke)
			}
		})
	}
}

// Each plot has its title, units, and what to compare with.
func TestLimitsPlots(t *testing.T) {
	dir := t.TempDir()
	files, err := limitsPlots(dir, sampleLimits())
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for file, texts := range map[string][]string{
		"latency.svg": {"Latency of acknowledgements", "messages/s offered", "ms (logarithmic)", "bar: 50 ms", "knee: 12,800/s", "p50", "p99"},
		"cpu.svg":     {"CPU over the offered rate", "messages/s offered", "CPUs", "knee: 12,800/s", "servers", "generator"},
		"memory.svg":  {"Memory over idle connections", "idle connections", "MiB", "server processes", "kernel, both ends"},
	} {
		raw, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if !bytes.Contains(raw, []byte(text)) {
				t.Errorf("%s lacks %q", file, text)
			}
		}
	}
}

func sampleStorm() *Result {
	return &Result{
		Mode: "storm", Transport: "quic", Connections: 10_050, OfferedRate: 100, Sent: 10_900, Acked: 10_900, Received: 10_900, Errors: map[string]int{}, ConnectsPerSecond: some(1100),
		Storm: &Storm{Dropped: 10_000, Back: 10_000, BackS: BackTimes{some(4.1), some(8.25), some(9), some(9.4)}, Attempts: 10_321, SentDuring: 900},
	}
}

func TestStormReport(t *testing.T) {
	r := sampleStorm()
	golden(t, "storm.md", stormText(r))
	r.Storm.Back, r.Storm.BackS.P99, r.Storm.BackS.P100, r.Storm.Missed, r.Storm.Resyncs = 9_500, nil, nil, 3, 7
	golden(t, "storm-lost.md", stormText(r))
}

func TestBackAt(t *testing.T) {
	times := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, c := range []struct{ part, want float64 }{{0.5, 5}, {0.9, 9}, {0.1, 1}} {
		if got := backAt(times, 10, c.part); got == nil || *got != c.want {
			t.Errorf("%g of ten is back at %v, want %g", c.part, got, c.want)
		}
	}
	if got := backAt(times, 10, 0.99); got != nil {
		t.Errorf("99 %% of ten is back at %g, though one never is", *got)
	}
}

func TestLimitsAndStorm(t *testing.T) {
	c := testcluster.Start(t, devcluster.Options{Cells: 2})
	for _, transport := range []client.Transport{client.TCP, client.QUIC} {
		t.Run("limits "+string(transport), func(t *testing.T) { checkLimits(t, commonFor(t, c, transport)) })
		t.Run("storm "+string(transport), func(t *testing.T) { checkStorm(t, commonFor(t, c, transport)) })
	}
	t.Run("no such cell", func(t *testing.T) {
		cfg := smallLimits(commonFor(t, c, client.TCP))
		cfg.Cell = "c9"
		if _, err := LimitsOf(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "c9") {
			t.Errorf("%v", err)
		}
	})
	t.Run("no cluster", func(t *testing.T) {
		cfg := smallLimits(commonFor(t, c, client.TCP))
		cfg.Admin = testservers.FreeAddr(t)
		if _, err := LimitsOf(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is the cluster running?") {
			t.Errorf("%v", err)
		}
	})
}

func smallLimits(common Common) LimitsConfig {
	return LimitsConfig{
		Common: common, Cell: "c2", P99: 50 * time.Millisecond, ConnectionsMax: 5, Levels: 2, Hold: 100 * time.Millisecond, Rest: time.Millisecond,
		Pairs: 3, SizeBytes: 200, Step: 200 * time.Millisecond, RateStart: 50, RateMax: 100, Factor: 2, Halvings: 1,
	}
}

// checkLimits holds a result to what adds up, whatever the machine bore.
func checkLimits(t *testing.T, common Common) {
	cfg := smallLimits(common)
	if common.Transport == client.QUIC {
		cfg.Procs = 2
	}
	r, err := LimitsOf(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := r.Limits
	if r.Lost+r.Doubled+r.Reordered+len(r.Errors) != 0 || r.Sent == 0 || r.Acked != r.Sent || r.Received != r.Sent {
		t.Errorf("%d sent, %d acknowledged, %d received, %d lost, %d doubled, %d reordered, %v", r.Sent, r.Acked, r.Received, r.Lost, r.Doubled, r.Reordered, r.Errors)
	}
	if f.Cell != "c2" || f.Connections.Held != 5 || r.Connections != 5+6 || f.Connections.Broke != "" {
		t.Errorf("%+v", f.Connections)
	}
	if f.Broke == "" || r.LimitedBy == "" || len(f.Steps) == 0 {
		t.Errorf("no reason: %+v", f)
	}
	if (f.KneePerSecond == nil) != (f.Overload == nil) || f.Refused != "" && f.KneePerSecond != nil {
		t.Errorf("knee %v, overload %+v, refused %q", f.KneePerSecond, f.Overload, f.Refused)
	}
	var due int64
	for _, s := range f.Steps {
		due += s.Due
		if s.Due != s.InBar+s.Late+s.Unanswered || s.Passed != (s.Broke == "") {
			t.Errorf("does not add up: %+v", s)
		}
		if f.KneePerSecond != nil && s.Passed && s.OfferedPS > *f.KneePerSecond {
			t.Errorf("%g/s held above the knee %g", s.OfferedPS, *f.KneePerSecond)
		}
	}
	if f.Overload != nil {
		due += f.Overload.Due
	}
	if due != r.Sent {
		t.Errorf("%d were due in steps without warm-up, %d sent", due, r.Sent)
	}
	checkWritten(t, common, r, "latency.svg", "memory.svg")
}

func checkWritten(t *testing.T, common Common, r *Result, plots ...string) {
	read, err := ReadResult(common.Out)
	if err != nil || !reflect.DeepEqual(read, r) {
		t.Errorf("result.json is %+v, %v; want %+v", read, err, r)
	}
	report, err := os.ReadFile(filepath.Join(common.Out, reportFile))
	if err != nil || !strings.Contains(string(report), common.Command) {
		t.Errorf("report.md does not say how it was measured: %v\n%s", err, report)
	}
	for _, file := range plots {
		if raw, err := os.ReadFile(filepath.Join(common.Out, file)); err != nil || !bytes.Contains(raw, []byte("<svg")) || !strings.Contains(string(report), file) {
			t.Errorf("%s is no picture of the report: %v", file, err)
		}
	}
}

func checkStorm(t *testing.T, common Common) {
	r, err := StormOf(t.Context(), StormConfig{Common: common, Connections: 20, Part: 5, Rate: 50, SizeBytes: SizeBytesMin, MaxWait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	s := r.Storm
	if err := r.Faults(); err != nil || s.Missed != 0 || r.Sent != 20+s.SentDuring || r.Acked != r.Sent || r.Received != r.Sent {
		t.Errorf("%v: %d sent, %d of them meanwhile, %d acknowledged, %d received, %d missed", err, r.Sent, s.SentDuring, r.Acked, r.Received, s.Missed)
	}
	if s.Dropped != 20 || s.Back != 20 || s.BackS.P100 == nil || *s.BackS.P50 > *s.BackS.P99 || *s.BackS.P99 > *s.BackS.P100 || s.Attempts < 20 {
		t.Errorf("%+v", s)
	}
	checkWritten(t, common, r, "back.svg")
}

// Sets of repeated runs are compared by medians, with their spread.
func TestCompareSets(t *testing.T) {
	dir := t.TempDir()
	save := func(name string, knee, p99 float64) string {
		r := sampleLimits()
		r.Machine, r.Commit = "a machine", "abc"
		r.Limits.KneePerSecond, r.AckMs = some(knee), &Quantiles{P50: 1, P90: 2, P99: p99, P999: 2 * p99, Max: 3 * p99}
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := writeResult(path, r); err != nil {
			t.Fatal(err)
		}
		return path
	}
	before := []string{save("a1", 10_000, 20), save("a2", 14_000, 18), save("a3", 11_000, 30)}
	save("b1", 22_000, 9)
	save("b2", 20_000, 11)
	a, err := ReadResults(strings.Join(before, ","))
	if err != nil || len(a) != 3 {
		t.Fatalf("%d, %v", len(a), err)
	}
	b, err := ReadResults(filepath.Join(dir, "b*"))
	if err != nil || len(b) != 2 {
		t.Fatalf("%d, %v", len(b), err)
	}
	var out strings.Builder
	if err := Compare(a, b, &out); err != nil {
		t.Fatal(err)
	}
	golden(t, "compare.txt", out.String())
	for _, bad := range []string{"", ",", filepath.Join(dir, "c*"), before[0] + "," + filepath.Join(dir, "none"), "[" + dir} {
		if _, err := ReadResults(bad); err == nil {
			t.Errorf("%q is a set of results", bad)
		}
	}
	b[1].Transport = "quic"
	out.Reset()
	if err := Compare(a, b, &out); err != nil || !strings.Contains(out.String(), "not alike: transport is tcp, and quic or tcp") {
		t.Errorf("a mixed set passes: %v\n%s", err, out.String())
	}
}
