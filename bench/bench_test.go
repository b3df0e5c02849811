package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/bench/ceiling"
	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/internal/testcluster"
	"github.com/waggle-im/waggle/internal/testservers"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "ceiling-process" {
		if err := ceiling.Process(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func commonFor(t *testing.T, c *testcluster.Cluster, transport client.Transport) Common {
	o := c.Options()
	common := Common{
		Server: o.Listen, Admin: o.Admin, CA: filepath.Join(o.DataDir, "ca.pem"), Out: filepath.Join(t.TempDir(), "out"),
		Transport: transport, Command: "waggle-bench of a test",
	}
	if transport == client.Plain {
		common.Server = o.Plaintext
	}
	return common
}

func TestAgainstACluster(t *testing.T) {
	c := testcluster.Start(t, devcluster.Options{Cells: 2, Plaintext: testservers.FreeAddr(t)})
	t.Run("open loop", func(t *testing.T) {
		checkRun(t, RunConfig{Common: commonFor(t, c, client.TCP), Pairs: 4, Rate: 100, SizeBytes: 200, Duration: time.Second, Placement: CrossCell})
	})
	t.Run("closed loop", func(t *testing.T) {
		checkRun(t, RunConfig{Common: commonFor(t, c, client.QUIC), Users: 4, Pairs: 2, Window: 2, SizeBytes: SizeBytesMin, Duration: time.Second, WarmUp: time.Second, Placement: SameCell})
	})
	t.Run("open loop of two processes", func(t *testing.T) {
		checkRun(t, RunConfig{Common: commonFor(t, c, client.TCP), Pairs: 5, Rate: 100, SizeBytes: 200, Duration: time.Second, WarmUp: time.Second, Placement: Mixed, Procs: 2})
	})
	t.Run("closed loop of three processes", func(t *testing.T) {
		checkRun(t, RunConfig{Common: commonFor(t, c, client.Plain), Pairs: 3, Window: 4, SizeBytes: SizeBytesMin, Duration: time.Second, Placement: SameCell, Procs: 3})
	})
	t.Run("closed loop of many beside each other", func(t *testing.T) { // whoever posts two at once must record them as he posts them
		checkRun(t, RunConfig{Common: commonFor(t, c, client.TCP), Pairs: 2, Window: 40, SizeBytes: SizeBytesMin, Duration: time.Second, Placement: SameCell})
	})
	t.Run("answers that are given up", func(t *testing.T) { checkGivenUp(t, commonFor(t, c, client.TCP)) })
	t.Run("a process that dies", func(t *testing.T) { checkDeadMember(t, commonFor(t, c, client.TCP)) })
	for _, transport := range []client.Transport{client.Plain, client.TCP, client.QUIC} {
		t.Run("idle "+string(transport), func(t *testing.T) { checkIdle(t, commonFor(t, c, transport)) })
	}
}

// checkGivenUp: a message whose answer is not waited for counts as an error, and
// what it still brings both people breaks no promise.
func checkGivenUp(t *testing.T, common Common) {
	r, err := Run(t.Context(), RunConfig{Common: common, Pairs: 20, Rate: 2000, SizeBytes: 200, Duration: time.Second, Placement: CrossCell, ackTimeout: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost+r.Doubled+r.Reordered > 0 || r.Errors["no answer"] == 0 || len(r.Errors) > 1 || r.Received != r.Sent {
		t.Errorf("%d lost, %d doubled, %d reordered, errors %v; %d received of %d", r.Lost, r.Doubled, r.Reordered, r.Errors, r.Received, r.Sent)
	}
}

// checkRun runs a load and holds its result to what the history says.
func checkRun(t *testing.T, cfg RunConfig) {
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Faults(); err != nil {
		t.Error(err)
	}
	if r.Sent == 0 || r.Acked != r.Sent || r.Received != r.Sent {
		t.Errorf("%d sent, %d acknowledged, %d received", r.Sent, r.Acked, r.Received)
	}
	if r.AckMs == nil || r.AckMs.P50 <= 0 || r.AckMs.P50 > r.AckMs.P99 || r.AckMs.P99 > r.AckMs.Max {
		t.Errorf("latencies %+v", r.AckMs)
	}
	if cfg.Rate > 0 && float64(r.Sent) != cfg.Rate*cfg.Duration.Seconds() {
		t.Errorf("%d messages sent at %g/s for %s", r.Sent, cfg.Rate, cfg.Duration)
	}
	read, err := ReadResult(cfg.Out)
	if err != nil || !reflect.DeepEqual(read, r) {
		t.Errorf("result.json is %+v, %v; want %+v", read, err, r)
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.Out, "*.tmp")); len(left) > 0 {
		t.Errorf("%v is left behind", left)
	}
	for _, file := range []string{"latency.svg", "percentiles.svg"} {
		if raw, err := os.ReadFile(filepath.Join(cfg.Out, file)); err != nil || !bytes.Contains(raw, []byte("<svg")) {
			t.Errorf("%s is no picture: %v", file, err)
		}
	}
	report, err := os.ReadFile(filepath.Join(cfg.Out, reportFile))
	if err != nil || !strings.Contains(string(report), cfg.Command) || !strings.Contains(string(report), "embedded") {
		t.Errorf("report.md does not say how it was measured: %v\n%s", err, report)
	}
	var out strings.Builder
	if err := Verify(cfg.Out, &out); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	loseOne(t, cfg.Out)
	if err := Verify(cfg.Out, &out); err == nil {
		t.Error("verify does not miss an acknowledged message")
	}
}

// loseOne takes a stored row out of a recorded history.
func loseOne(t *testing.T, dir string) {
	f, err := os.Open(filepath.Join(dir, historyFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := history.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	h.Stored = slices.Delete(h.Stored, len(h.Stored)/2, len(h.Stored)/2+1)
	if err := writeHistory(dir, h); err != nil {
		t.Fatal(err)
	}
}

// checkIdle holds a few connections.
func checkIdle(t *testing.T, common Common) {
	cfg := IdleConfig{Common: common, Connections: 3, Procs: 2, Hold: time.Second, Rest: time.Millisecond, Baseline: 100 * time.Millisecond}
	r, err := Idle(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Faults(); err != nil || r.Disconnects != 0 || r.Connections != 3 || *r.ConnectsPerSecond <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if runtime.GOOS == "linux" {
		if r.ServerBytesPerConnection == nil || r.KernelBytesPerConnection == nil {
			t.Errorf("%+v lacks what /proc knows", r)
		}
		checkIdleCPU(t, cfg.Out, r)
	}
	if common.Transport == client.Plain {
		return
	}
	cfg.CA = filepath.Join(t.TempDir(), "none.pem")
	if _, err := Idle(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--ca") {
		t.Errorf("without an authority: %v", err)
	}
}

// checkIdleCPU holds that the CPU of an idle connection is known exactly if the
// servers used no less with the connections than without: so few of them may
// take less than the servers' own work differs from second to second.
func checkIdleCPU(t *testing.T, dir string, r *Result) {
	t.Helper()
	report, err := os.ReadFile(filepath.Join(dir, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`([0-9.]+), ([0-9.]+) CPUs`).FindStringSubmatch(string(report))
	if said == nil {
		t.Fatalf("report.md does not say what the servers used:\n%s", report)
	}
	without, err1 := strconv.ParseFloat(said[1], 64)
	with, err2 := strconv.ParseFloat(said[2], 64)
	if err1 != nil || err2 != nil || with <= 0 {
		t.Errorf("the servers used %q of CPUs, then %q", said[1], said[2])
	}
	known := r.CPUUsPerIdleConnection != nil
	if with > without && !known || with < without && known {
		t.Errorf("the servers used %v CPUs, then %v, and the CPU of an idle connection is %v", without, with, r.CPUUsPerIdleConnection)
	}
}

func TestUnreachable(t *testing.T) {
	addr := testservers.FreeAddr(t)
	cfg := RunConfig{
		Common: Common{Server: addr, Admin: addr, Out: t.TempDir(), Transport: client.Plain},
		Pairs:  1, Window: 1, SizeBytes: 200, Duration: time.Second, Placement: SameCell,
	}
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is the cluster running?") {
		t.Errorf("no cluster: %v", err)
	}
}

func TestValidate(t *testing.T) {
	good := func() RunConfig {
		return RunConfig{
			Common: Common{Server: "127.0.0.1:1", Admin: "127.0.0.1:1", Out: "out", Transport: client.TCP},
			Pairs:  1, Window: 1, SizeBytes: 200, Duration: time.Second, Placement: SameCell,
		}
	}
	c := good()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*RunConfig){
		"both loops":        func(c *RunConfig) { c.Rate = 1 },
		"no loop":           func(c *RunConfig) { c.Window = 0 },
		"no pairs":          func(c *RunConfig) { c.Pairs = 0 },
		"small texts":       func(c *RunConfig) { c.SizeBytes = SizeBytesMin - 1 },
		"great texts":       func(c *RunConfig) { c.SizeBytes = sizeBytesMax + 1 },
		"odd users":         func(c *RunConfig) { c.Users = 3 },
		"unknown placement": func(c *RunConfig) { c.Placement = "anywhere" },
		"unknown transport": func(c *RunConfig) { c.Transport = "pigeon" },
		"no address":        func(c *RunConfig) { c.Server = "nowhere" },
	} {
		c := good()
		if spoil(&c); c.Validate() == nil {
			t.Errorf("%s passes", name)
		}
	}
}

// The keys of result.json are a contract.
func TestResultKeys(t *testing.T) {
	raw, err := json.Marshal(Result{})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(`mode commit command machine transport placement connections offered_rate sent acked received lost doubled
		reordered disconnects errors ack_ms deliver_ms pause_ms server_bytes_per_connection server_bytes_by_node
		kernel_bytes_per_connection cpu_us_per_message cpu_us_per_idle_connection connects_per_s limited_by`)
	have := map[string]any{}
	if err := json.Unmarshal(raw, &have); err != nil {
		t.Fatal(err)
	}
	for _, key := range want {
		if _, ok := have[key]; !ok {
			t.Errorf("%s is missing", key)
		}
		delete(have, key)
	}
	if len(have) > 0 {
		t.Errorf("beyond the contract: %v", have)
	}
}

func TestCompare(t *testing.T) {
	a := &Result{Mode: "run", Transport: "tcp", Acked: 1000, AckMs: &Quantiles{P50: 2}, CPUUsPerMessage: some(50)}
	b := &Result{Mode: "run", Transport: "quic", Acked: 2500, AckMs: &Quantiles{P50: 3}}
	var out strings.Builder
	if err := Compare([]*Result{a}, []*Result{b}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"not alike: transport is tcp, and quic", "2.500", "1.500"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "cpu_us_per_message") {
		t.Error("compares what one of them has not measured")
	}
}

// Latencies count for the second they were due in, and beyond the warm-up for
// the whole.
func TestTally(t *testing.T) {
	y := newTally()
	y.add(500*time.Millisecond, time.Second, false)
	for i := range 100 {
		y.add(2*time.Second, time.Duration(i+1)*time.Millisecond, true)
	}
	q := y.quantiles()
	if y.count() != 100 || q.P50 < 49 || q.P50 > 51 || q.P99 < 98 || q.Max < 99.9 || q.Max > 100.2 {
		t.Errorf("%d, %+v", y.count(), q)
	}
	points := y.overTime(99)
	if len(points) != 2 || points[0].X != 0 || points[1].X != 2 || points[0].Y < 990 {
		t.Errorf("over time %v", points)
	}
	if (newTally()).quantiles() != nil {
		t.Error("nothing has quantiles")
	}
}

func TestIdleConnectionsTakeNoNegativeCPU(t *testing.T) {
	if v := perIdle(0.02, 2000); v == nil || *v != 10 {
		t.Errorf("0.02 CPUs over 2,000 connections: %v", v)
	}
	if v := perIdle(-0.08, 2000); v != nil {
		t.Errorf("fewer CPUs than without them: %v µs/s", *v)
	}
}
