package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/waggle-im/waggle/internal/history"
)

// Quantiles are a latency distribution in milliseconds.
type Quantiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Result is result.json. What was not measured is null.
type Result struct {
	Mode      string `json:"mode"` // run, move, idle, limits, storm, scale, startup or ceiling
	Commit    string `json:"commit"`
	Command   string `json:"command"`
	Machine   string `json:"machine"`
	Transport string `json:"transport"`
	Placement string `json:"placement"`

	Connections int     `json:"connections"`
	OfferedRate float64 `json:"offered_rate"` // messages/s; in a closed loop what the window let through

	// Messages due after the warm-up. Lost, doubled and reordered count the
	// checker's findings over the whole run.
	Sent        int64          `json:"sent"`
	Acked       int64          `json:"acked"`
	Received    int64          `json:"received"` // by the peer
	Lost        int            `json:"lost"`
	Doubled     int            `json:"doubled"`
	Reordered   int            `json:"reordered"`
	Disconnects int64          `json:"disconnects"`
	Errors      map[string]int `json:"errors"`             // by kind, over the whole run
	Refusals    map[string]int `json:"refusals,omitempty"` // "retry later", by kind, in the measured time; clients sent again

	AckMs     *Quantiles `json:"ack_ms"`
	DeliverMs *Quantiles `json:"deliver_ms"`
	PauseMs   *Quantiles `json:"pause_ms"` // over the senders of a range that moved

	ServerBytesPerConnection *float64         `json:"server_bytes_per_connection"`
	ServerBytesByNode        map[string]int64 `json:"server_bytes_by_node"` // growth; nodes of one process stand together
	KernelBytesPerConnection *float64         `json:"kernel_bytes_per_connection"`
	CPUUsPerMessage          *float64         `json:"cpu_us_per_message"`
	CPUUsPerIdleConnection   *float64         `json:"cpu_us_per_idle_connection"` // per second
	ConnectsPerSecond        *float64         `json:"connects_per_s"`
	LimitedBy                string           `json:"limited_by"`

	Limits *Limits `json:"limits,omitempty"` // of mode limits
	Storm  *Storm  `json:"storm,omitempty"`  // of mode storm

	Scale   *Scale   `json:"scale,omitempty"`   // of mode scale
	Startup *Startup `json:"startup,omitempty"` // of mode startup
	Ceiling *Ceiling `json:"ceiling,omitempty"` // of mode ceiling
}

// count adds up the checker's findings.
func (r *Result) count(violations []history.Violation) {
	for _, v := range violations {
		switch v.Invariant {
		case "I1":
			r.Lost++
		case "I2":
			r.Doubled++
		case "I3", "I5", "I6":
			r.Reordered++
		default:
			r.Errors[v.Invariant]++
		}
	}
}

// Faults tells whether the run broke a promise, failed a send, or found no
// limit of the cell.
func (r *Result) Faults() error {
	if r.Limits != nil && r.Limits.Refused != "" {
		return errors.New("no limit of the cell: " + r.Limits.Refused)
	}
	if r.Scale != nil && r.Scale.refused() != nil {
		return r.Scale.refused()
	}
	if r.Lost+r.Doubled+r.Reordered == 0 && len(r.Errors) == 0 {
		return nil
	}
	return fmt.Errorf("%d lost, %d doubled, %d reordered, errors %v: see report.md", r.Lost, r.Doubled, r.Reordered, r.Errors)
}

const (
	resultFile  = "result.json"
	reportFile  = "report.md"
	historyFile = "history.jsonl"
)

func writeResult(dir string, r *Result) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("bench: write the result: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, resultFile), append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("bench: write the result: %w", err)
	}
	return nil
}

// ReadResult reads a result.json, or the one in a folder.
func ReadResult(path string) (*Result, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, resultFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("bench: read a result: %w", err)
	}
	r := new(Result)
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("bench: %s is not a result of waggle-bench: %w", path, err)
	}
	return r, nil
}

func some(v float64) *float64 { return &v }
