package bench

import (
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// charts are the latencies to draw; nil ones are left out.
type charts struct {
	ack, deliver *tally
	warmUp       time.Duration
	marks        []mark
}

// mark is an event of a run.
type mark struct {
	at   time.Duration // since the start of sending
	name string        // empty: only a line
}

type chartFile struct{ title, file string }

const (
	chartWidth  = 8 * vg.Inch
	chartHeight = 4 * vg.Inch
)

// line is one curve.
type line struct {
	name   string
	points plotter.XYs
	color  color.Color
}

// write draws what there is into dir.
func (c charts) write(dir string) ([]chartFile, error) {
	if c.ack == nil || c.ack.count() == 0 {
		return nil, nil
	}
	blue, red := color.RGBA{R: 31, G: 119, B: 180, A: 255}, color.RGBA{R: 214, G: 39, B: 40, A: 255}
	pale, pink := color.RGBA{R: 174, G: 199, B: 232, A: 255}, color.RGBA{R: 255, G: 152, B: 150, A: 255}
	over := []line{
		{"acknowledged p50", c.ack.overTime(50), pale}, {"acknowledged p99", c.ack.overTime(99), blue},
		{"delivered p50", c.deliver.overTime(50), pink}, {"delivered p99", c.deliver.overTime(99), red},
	}
	spread := []line{{"acknowledged", c.ack.spread(), blue}, {"delivered", c.deliver.spread(), red}}
	out := []chartFile{
		{"Latency over time", "latency.svg"},
		{"Latency by percentile", "percentiles.svg"},
	}
	title := fmt.Sprintf("Latency by the second a message was due in (warm-up until %s)", c.warmUp)
	if err := drawLines(filepath.Join(dir, out[0].file), title, "seconds", over, c.marks...); err != nil {
		return nil, err
	}
	err := drawLines(filepath.Join(dir, out[1].file), "Latency by percentile", "1 in 10^x messages took longer (1: p90, 2: p99, 3: p99.9)", spread)
	return out, err
}

func drawLines(path, title, x string, lines []line, marks ...mark) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, "ms"
	p.Y.Min, p.X.Min, p.Legend.Top, p.Legend.Left = 0, 0, true, true
	p.Add(plotter.NewGrid())
	for _, l := range lines {
		if len(l.points) == 0 {
			continue
		}
		curve, err := plotter.NewLine(l.points)
		if err != nil {
			return fmt.Errorf("bench: draw %s: %w", path, err)
		}
		curve.Color = l.color
		p.Add(curve)
		p.Legend.Add(l.name, curve)
	}
	if err := drawMarks(p, marks); err != nil {
		return fmt.Errorf("bench: draw %s: %w", path, err)
	}
	if err := p.Save(chartWidth, chartHeight, path); err != nil {
		return fmt.Errorf("bench: draw %s: %w", path, err)
	}
	return nil
}

// drawMarks draws each event as a line over the whole height, with its name.
func drawMarks(p *plot.Plot, marks []mark) error {
	for i, m := range marks {
		x := m.at.Seconds()
		curve, err := plotter.NewLine(plotter.XYs{{X: x, Y: 0}, {X: x, Y: p.Y.Max}})
		if err != nil {
			return err
		}
		curve.Color, curve.Dashes = color.Gray{Y: 128}, []vg.Length{vg.Points(2), vg.Points(3)}
		p.Add(curve)
		if m.name == "" {
			continue
		}
		// Names of events that follow closely stand one below the other.
		y := p.Y.Max * (0.95 - 0.06*float64(i%12))
		names, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: x, Y: y}}, Labels: []string{" " + m.name}})
		if err != nil {
			return err
		}
		p.Add(names)
	}
	return nil
}

// overTime is a percentile of each second, in milliseconds.
func (t *tally) overTime(percent float64) plotter.XYs {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out plotter.XYs
	for i, h := range t.seconds {
		if h.TotalCount() > 0 {
			out = append(out, plotter.XY{X: float64(i), Y: float64(h.ValueAtQuantile(percent)) / 1000})
		}
	}
	return out
}

// spread is the latency in milliseconds that 1 in 10^x messages exceeded.
func (t *tally) spread() plotter.XYs {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all.TotalCount() == 0 {
		return nil
	}
	var out plotter.XYs
	for x := 0.0; x <= math.Log10(float64(t.all.TotalCount())); x += 0.05 {
		out = append(out, plotter.XY{X: x, Y: float64(t.all.ValueAtQuantile(100*(1-math.Pow(10, -x)))) / 1000})
	}
	return out
}
