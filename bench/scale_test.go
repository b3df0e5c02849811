package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
)

func sampleScaleConfig() ScaleConfig {
	return ScaleConfig{
		RunConfig: RunConfig{
			Common: Common{Out: "out", Transport: client.TCP}, Pairs: 200, Rate: 1000, SizeBytes: 200, Duration: 10 * time.Second, Placement: Mixed,
		},
		Cells: []int{1, 2}, Repeat: 3,
	}
}

func sampleScaleRun(cpu, p99 float64, mib int64, lag float64) scaleRun {
	return scaleRun{
		r:      &Result{CPUUsPerMessage: some(cpu), AckMs: &Quantiles{P50: p99 / 4, P99: p99}},
		detail: runDetail{lag: &Quantiles{P99: lag}, busyShare: some(0.6), ackedPS: 1000, serverBytes: mib << 20},
	}
}

func sampleScale(lag float64) *Result {
	cfg := sampleScaleConfig()
	r := &Result{Mode: "scale", Transport: "tcp", OfferedRate: 1000, Errors: map[string]int{}, Scale: &Scale{Points: []ScalePoint{
		cfg.point(1, []scaleRun{sampleScaleRun(300, 4, 100, 0.5), sampleScaleRun(310, 5, 101, 0.5), sampleScaleRun(290, 8, 102, 0.5)}),
		cfg.point(2, []scaleRun{sampleScaleRun(400, 6, 130, 0.5), sampleScaleRun(410, 9, 131, lag), sampleScaleRun(420, 7, 132, 0.5)}),
	}}}
	r.Scale.slope()
	return r
}

func TestScaleReport(t *testing.T) {
	r := sampleScale(0.5)
	golden(t, "scale.md", scaleText(r))
	if r.Faults() != nil {
		t.Error(r.Faults())
	}
	two := r.Scale.Points[1]
	if *two.CPUUsPerMessage != (Spread{410, 400, 420}) || two.ServerBytesCell.Median != 65.5*(1<<20) || two.CrossCellShare != 0.5 || r.Scale.Points[0].CrossCellShare != 0 {
		t.Errorf("%+v, %+v", two, two.CPUUsPerMessage)
	}
	if v := r.Scale.ServerBytesPerFurtherCell; v == nil || *v != 30<<20 {
		t.Errorf("a further cell takes %v", v)
	}
	dir := t.TempDir()
	for _, f := range scalePlots(r) {
		if err := f.write(dir); err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(filepath.Join(dir, f.file)); err != nil || !bytes.Contains(raw, []byte("<svg")) || !bytes.Contains(raw, []byte("cells")) {
			t.Errorf("%s is no picture: %v", f.file, err)
		}
	}

	late := sampleScale(20)
	golden(t, "scale-generator.md", scaleText(late))
	if late.Scale.Points[1].CPUUsPerMessage != nil || late.Faults() == nil || !strings.Contains(late.Faults().Error(), "2 cells") {
		t.Errorf("the generator's limit passes for the servers': %+v, %v", late.Scale.Points[1], late.Faults())
	}

	lost := sampleScale(0.5)
	lost.add(&Result{Lost: 1, Errors: map[string]int{"no answer": 2}})
	if lost.Faults() == nil || lost.Lost != 1 || lost.Errors["no answer"] != 2 {
		t.Errorf("a lost message is no fault: %+v", lost)
	}
}

func TestStartupReport(t *testing.T) {
	s := &Startup{
		EmptyS: spreadOf([]float64{1.2, 1.1, 1.6}), CleanS: spreadOf([]float64{1.7, 1.4, 1.9}), KilledS: spreadOf([]float64{1.5}),
		EmptyBytes: spreadOf([]float64{140e6, 160e6}), EmptyBytesCollected: spreadOf([]float64{90e6}),
	}
	golden(t, "startup.md", startupText(s))
	golden(t, "startup-unknown.md", startupText(&Startup{EmptyS: s.EmptyS, CleanS: s.CleanS, KilledS: s.KilledS, EmptyBytes: spreadOf([]float64{0})}))
}

// What result.json has of scale and startup is read back.
func TestScaleAndStartupResult(t *testing.T) {
	dir := t.TempDir()
	r := sampleScale(0.5)
	r.Startup = &Startup{EmptyS: spreadOf([]float64{1, 3, 2})}
	if err := writeResult(dir, r); err != nil {
		t.Fatal(err)
	}
	read, err := ReadResult(dir)
	if err != nil || !reflect.DeepEqual(read, r) {
		t.Errorf("%+v, %v", read, err)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{`"cells":2`, `"cross_cell_share":0.5`, `"cpu_us_per_message":{"median":410,"min":400,"max":420}`, `"ack_p99_ms"`, `"server_bytes_per_cell"`, `"empty_s":{"median":2,"min":1,"max":3}`} {
		if !strings.Contains(string(raw), key) {
			t.Errorf("result.json lacks %s", key)
		}
	}
}

func TestScaleValidate(t *testing.T) {
	good := sampleScaleConfig()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*ScaleConfig){
		"a window":        func(c *ScaleConfig) { c.Rate, c.Window = 0, 10 },
		"no cells":        func(c *ScaleConfig) { c.Cells = nil },
		"zero cells":      func(c *ScaleConfig) { c.Cells = []int{0} },
		"no runs":         func(c *ScaleConfig) { c.Repeat = 0 },
		"too few pairs":   func(c *ScaleConfig) { c.Pairs = 1 },
		"plain transport": func(c *ScaleConfig) { c.Transport = client.Plain },
	} {
		c := sampleScaleConfig()
		if spoil(&c); c.Validate() == nil {
			t.Errorf("%s passes", name)
		}
	}
}

// A cluster that cannot start is an error with its last words, and nothing is
// left of it.
func TestDevThatEnds(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("needs a shell")
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	program := filepath.Join(t.TempDir(), "waggle")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho no disk >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, measure := range map[string]func() (*Result, error){
		"startup": func() (*Result, error) {
			return StartupOf(t.Context(), StartupConfig{Common: Common{Out: t.TempDir()}, Waggle: program, Repeat: 1})
		},
		"scale": func() (*Result, error) {
			cfg := sampleScaleConfig()
			cfg.Out, cfg.Waggle = t.TempDir(), program
			return ScaleOf(t.Context(), cfg)
		},
	} {
		if _, err := measure(); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no disk") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("%v is left behind", left)
	}
}
