package bench

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/bench/ceiling"
)

func sampleCeiling() *Result {
	return &Result{
		Mode: "ceiling", Transport: "tcp", Connections: 1000, OfferedRate: 40_012.5, Sent: 320_100, Acked: 320_100, Received: 320_100, Errors: map[string]int{},
		AckMs: &Quantiles{P50: 12, P90: 20, P99: 31, P999: 50, Max: 61}, CPUUsPerMessage: some(28.4), LimitedBy: "CPU",
		Ceiling: &Ceiling{Copies: 1, AckedPS: 40_021.4, ServerCPUUsPerMessage: some(28.4), GeneratorCPUUsPerMessage: some(20.1)},
	}
}

func TestCeilingReport(t *testing.T) {
	golden(t, "ceiling.md", ceilingText(sampleCeiling())+latencyTable(sampleCeiling()))
	open := sampleCeiling()
	open.Ceiling = &Ceiling{Copies: 3, AckedPS: 980, Unsent: 17}
	golden(t, "ceiling-unknown.md", ceilingText(open))
}

// Both forms leave a result that can be read back and a report, and nothing
// else.
func TestCeilingOf(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, load := range map[string]ceiling.Config{
		"closed loop":               {Copies: 1, Pairs: 2, Window: 3, SizeBytes: 200, Duration: time.Second},
		"open loop of three copies": {Copies: 3, Pairs: 2, Rate: 50, SizeBytes: 200, Duration: time.Second, WarmUp: 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			load.Dir = t.TempDir()
			cfg := CeilingConfig{Common: Common{Out: filepath.Join(t.TempDir(), "out"), Command: "waggle-bench of a test"}, Load: load, Executable: self}
			r, err := CeilingOf(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if r.Faults() != nil || r.Connections != 4 || r.Sent == 0 || r.Acked != r.Sent || r.Received != r.Sent || r.OfferedRate <= 0 || r.AckMs == nil || r.LimitedBy == "" || r.Ceiling.Copies != load.Copies {
				t.Errorf("%+v, %+v", r, r.Ceiling)
			}
			if runtime.GOOS == "linux" && r.Ceiling.AckedPS > 0 && (r.CPUUsPerMessage == nil || r.Ceiling.ServerCPUUsPerMessage == nil || r.Ceiling.GeneratorCPUUsPerMessage == nil) {
				t.Errorf("%+v lacks what /proc knows", r.Ceiling)
			}
			if read, err := ReadResult(cfg.Out); err != nil || !reflect.DeepEqual(read, r) {
				t.Errorf("result.json is %+v, %v; want %+v", read, err, r)
			}
			report, err := os.ReadFile(filepath.Join(cfg.Out, reportFile))
			if err != nil || !strings.Contains(string(report), cfg.Command) || !strings.Contains(string(report), ceilingText(r)) {
				t.Errorf("report.md: %v\n%s", err, report)
			}
			if left, _ := os.ReadDir(load.Dir); len(left) > 0 {
				t.Errorf("%v is left behind", left)
			}
		})
	}
}
