package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/version"
)

// scaleLagMs is the delay of the generator, at p99, from which a point says more
// about it than about the servers: that of limits with a bar of 50 ms.
const scaleLagMs = lagShare * 50

// ScaleConfig says what to offer to clusters of different sizes. Of its Common,
// Server, Admin and CA are not used: it starts clusters of its own.
type ScaleConfig struct {
	RunConfig
	Cells  []int
	Repeat int
	Waggle string // the program to start
}

// Validate says what is wrong.
func (c *ScaleConfig) Validate() error {
	run := c.RunConfig
	run.Server, run.Admin = "127.0.0.1:1", "127.0.0.1:1"
	if err := run.Validate(); err != nil {
		return err
	}
	switch {
	case c.Rate <= 0:
		return errors.New("--rate: above 0")
	case len(c.Cells) == 0 || slices.Min(c.Cells) < 1 || slices.Max(c.Cells) > 64:
		return fmt.Errorf("--cells %v: numbers from 1 to 64", c.Cells)
	case c.Repeat < 1:
		return fmt.Errorf("--repeat %d: from 1", c.Repeat)
	case c.Transport == client.Plain:
		return errors.New("--transport plain: scale measures tcp or quic")
	case c.Pairs < slices.Max(c.Cells):
		return fmt.Errorf("--pairs %d: at least one for each cell", c.Pairs)
	}
	return nil
}

// Scale is the part of a result that only scale has.
type Scale struct {
	Points []ScalePoint `json:"points"`
	// ServerBytesPerFurtherCell is the slope of memory from the fewest to the
	// most cells.
	ServerBytesPerFurtherCell *float64 `json:"server_bytes_per_further_cell"`
}

// ScalePoint is what one number of cells did, over repeated runs.
type ScalePoint struct {
	Cells           int     `json:"cells"`
	CrossCellShare  float64 `json:"cross_cell_share"` // of the pairs
	AckedPS         *Spread `json:"acked_per_s"`
	CPUUsPerMessage *Spread `json:"cpu_us_per_message"`
	AckP50Ms        *Spread `json:"ack_p50_ms"`
	AckP99Ms        *Spread `json:"ack_p99_ms"`
	ServerBytes     *Spread `json:"server_bytes"`          // resident, all of it, at the end of the load
	ServerBytesCell *Spread `json:"server_bytes_per_cell"` // the same over the cells
	Lost            int     `json:"lost"`
	Doubled         int     `json:"doubled"`
	Reordered       int     `json:"reordered"`
	Refused         string  `json:"refused,omitempty"` // why there is no number
}

// Spread is the median of repeated runs, the least and the most.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) *Spread {
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	n := len(values)
	return &Spread{Median: (values[(n-1)/2] + values[n/2]) / 2, Min: values[0], Max: values[n-1]}
}

// ScaleOf offers the same rate to clusters of different sizes, one after the
// other, and writes what it cost them to a folder.
//
// Errors: what kept the measurement from being one.
func ScaleOf(ctx context.Context, cfg ScaleConfig) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Result{
		Mode: "scale", Commit: version.Commit(), Command: cfg.Command, Machine: machine(), Transport: string(cfg.Transport), Placement: cfg.Placement,
		Connections: 2 * cfg.Pairs, OfferedRate: cfg.Rate, Errors: map[string]int{}, LimitedBy: "the offered rate, the same for every number of cells",
		Scale: &Scale{},
	}
	if err := makeOut(&cfg.Common); err != nil {
		return nil, err
	}
	runs := map[int][]scaleRun{}
	for i := range cfg.Repeat {
		for _, cells := range cfg.Cells {
			cfg.say("== %d cells, run %d of %d", cells, i+1, cfg.Repeat)
			one, err := cfg.one(ctx, cells, filepath.Join(cfg.Out, fmt.Sprintf("cells-%d-run-%d", cells, i+1)))
			if err != nil {
				return nil, fmt.Errorf("%d cells: %w", cells, err)
			}
			runs[cells] = append(runs[cells], one)
			r.add(one.r)
		}
	}
	for _, cells := range cfg.Cells {
		r.Scale.Points = append(r.Scale.Points, cfg.point(cells, runs[cells]))
	}
	r.Scale.slope()
	if err := writeResult(cfg.Out, r); err != nil {
		return nil, err
	}
	return r, cfg.report(r)
}

// scaleRun is one run with one number of cells.
type scaleRun struct {
	r      *Result
	detail runDetail
}

// add sums up the counts of a run.
func (r *Result) add(one *Result) {
	r.Sent += one.Sent
	r.Acked += one.Acked
	r.Received += one.Received
	r.Lost += one.Lost
	r.Doubled += one.Doubled
	r.Reordered += one.Reordered
	r.Disconnects += one.Disconnects
	for kind, n := range one.Errors {
		r.Errors[kind] += n
	}
}

// placement is that of a number of cells: one cell has no other.
func (cfg *ScaleConfig) placement(cells int) string {
	if cells == 1 {
		return SameCell
	}
	return cfg.Placement
}

func (cfg *ScaleConfig) one(ctx context.Context, cells int, out string) (one scaleRun, err error) {
	d, err := newDev(cfg.Waggle, "--cells", fmt.Sprint(cells))
	if err != nil {
		return one, err
	}
	defer d.close()
	if _, err := d.start(ctx); err != nil {
		return one, err
	}
	run := cfg.RunConfig
	run.Common, run.Placement = d.common(cfg.Common, out), cfg.placement(cells)
	if one.r, err = runWith(ctx, run, &one.detail); err != nil {
		return one, errors.Join(err, d.gone())
	}
	return one, d.stop()
}

// gone says how the cluster ended, if it has.
func (d *dev) gone() error {
	select {
	case <-d.ended:
		return fmt.Errorf("the cluster has ended (%s): %s", d.cmd.ProcessState, d.lastWords())
	case <-time.After(time.Second):
		return nil
	}
}

// point joins the runs of a number of cells.
func (cfg *ScaleConfig) point(cells int, runs []scaleRun) ScalePoint {
	out := ScalePoint{Cells: cells, CrossCellShare: cfg.crossShare(cells)}
	values := map[**Spread][]float64{}
	for _, one := range runs {
		r, d := one.r, one.detail
		out.Lost += r.Lost
		out.Doubled += r.Doubled
		out.Reordered += r.Reordered
		if d.lag != nil && d.lag.P99 > scaleLagMs && (d.busyShare == nil || *d.busyShare < busyShare) {
			out.Refused = fmt.Sprintf("the generator sent 1 %% of the messages more than %.1f ms after they were due while the machine had idle CPU: "+
				"that is a limit of waggle-bench here. Give it more --procs, or a lower --rate", d.lag.P99)
		}
		keep := func(to **Spread, v *float64) {
			if v != nil {
				values[to] = append(values[to], *v)
			}
		}
		keep(&out.AckedPS, some(round(d.ackedPS)))
		keep(&out.CPUUsPerMessage, r.CPUUsPerMessage)
		if q := r.AckMs; q != nil {
			keep(&out.AckP50Ms, &q.P50)
			keep(&out.AckP99Ms, &q.P99)
		}
		if d.serverBytes > 0 {
			keep(&out.ServerBytes, some(float64(d.serverBytes)))
			keep(&out.ServerBytesCell, some(round(float64(d.serverBytes)/float64(cells))))
		}
	}
	if out.Refused == "" {
		for to, v := range values {
			*to = spreadOf(v)
		}
	}
	return out
}

// crossShare is the part of the pairs whose two live in different cells.
func (cfg *ScaleConfig) crossShare(cells int) float64 {
	p, err := newPlan(2*cfg.Pairs, cfg.Pairs, cells, cfg.placement(cells))
	if err != nil {
		return 0
	}
	n := 0
	for _, pair := range p.pairs {
		if p.cells[pair.a] != p.cells[pair.b] {
			n++
		}
	}
	return round(1000*float64(n)/float64(len(p.pairs))) / 1000
}

func (s *Scale) slope() {
	var least, most *ScalePoint
	for i := range s.Points {
		p := &s.Points[i]
		if p.ServerBytes == nil {
			continue
		}
		if least == nil || p.Cells < least.Cells {
			least = p
		}
		if most == nil || p.Cells > most.Cells {
			most = p
		}
	}
	if least != nil && most.Cells > least.Cells {
		s.ServerBytesPerFurtherCell = some(round((most.ServerBytes.Median - least.ServerBytes.Median) / float64(most.Cells-least.Cells)))
	}
}

// refused is why a number of cells has no numbers, if one has none.
func (s *Scale) refused() error {
	for _, p := range s.Points {
		if p.Refused != "" {
			return fmt.Errorf("no number for %d cells: %s", p.Cells, p.Refused)
		}
	}
	return nil
}

func makeOut(c *Common) error {
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("bench: make the folder for the results: %w", err)
	}
	return nil
}
