package bench

import (
	"cmp"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// figure is a plot of curves over anything.
type figure struct {
	file, title, x, y string
	lines             []line
	across            []guide // values of y
	upright           []guide // values of x
	logarithmic       bool    // y
	yMin, yMax        float64 // yMax 0: as the curves need
	steps             bool    // curves without dots
}

// guide is a value to compare curves with.
type guide struct {
	at   float64
	name string
}

func (f figure) write(dir string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = f.title, f.x, f.y
	p.Title.Padding, p.X.Padding, p.Y.Padding = vg.Points(8), vg.Points(6), vg.Points(6)
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs, p.Legend.Padding = true, true, vg.Points(8), vg.Points(3)
	p.X.Tick.Marker = plainTicks{}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{Y: 225}, color.Gray{Y: 225}
	p.Add(grid)
	for _, l := range f.lines {
		if err := f.add(p, l); err != nil {
			return fmt.Errorf("bench: draw %s: %w", f.file, err)
		}
	}
	f.axes(p)
	for _, g := range f.across {
		if err := addGuide(p, plotter.XYs{{X: p.X.Min, Y: g.at}, {X: p.X.Max, Y: g.at}}, 3, g.name); err != nil {
			return fmt.Errorf("bench: draw %s: %w", f.file, err)
		}
	}
	for _, g := range f.upright {
		if err := addGuide(p, plotter.XYs{{X: g.at, Y: p.Y.Max}, {X: g.at, Y: p.Y.Min}}, -12, g.name); err != nil {
			return fmt.Errorf("bench: draw %s: %w", f.file, err)
		}
	}
	if err := save(p, filepath.Join(dir, f.file)); err != nil {
		return fmt.Errorf("bench: draw %s: %w", f.file, err)
	}
	return nil
}

// save writes a plot with room at its borders: viewers without the plot's own
// font take a wider one.
func save(p *plot.Plot, path string) error {
	canvas := vgsvg.New(chartWidth, chartHeight)
	p.Draw(draw.Crop(draw.New(canvas), vg.Points(6), -vg.Points(28), vg.Points(4), -vg.Points(8)))
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(file)
	return errors.Join(err, file.Close())
}

func (f figure) add(p *plot.Plot, l line) error {
	if len(l.points) == 0 {
		return nil
	}
	curve, dots, err := plotter.NewLinePoints(l.points)
	if err != nil {
		return err
	}
	curve.Color, curve.Width = l.color, vg.Points(1.5)
	dots.Color, dots.Radius = l.color, vg.Points(2)
	p.Add(curve)
	if !f.steps {
		p.Add(dots)
	}
	if l.name != "" {
		p.Legend.Add(l.name, curve)
	}
	return nil
}

// axes sets what they span, and their numbers.
func (f figure) axes(p *plot.Plot) {
	p.X.Min = 0
	p.X.Max *= 1.05
	for _, g := range f.across {
		p.Y.Max = max(p.Y.Max, g.at)
	}
	p.Y.Min = f.yMin
	if f.logarithmic {
		// Whole decades, so that at least two numbers are at the axis.
		p.Y.Min = math.Pow(10, math.Floor(math.Log10(max(f.yMin, 0.01))))
		p.Y.Max = math.Pow(10, math.Ceil(math.Log10(max(p.Y.Max, 10*p.Y.Min))+0.15))
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decadeTicks{}
		return
	}
	p.Y.Max = max(p.Y.Max*1.4, p.Y.Min+1e-9) // the legend stands above the curves
	if f.yMax > 0 {
		p.Y.Max = f.yMax
	}
	p.Y.Tick.Marker = plainTicks{}
}

// addGuide draws a line with its name where it begins, so many points above.
func addGuide(p *plot.Plot, ends plotter.XYs, above float64, name string) error {
	curve, err := plotter.NewLine(ends)
	if err != nil {
		return err
	}
	curve.Color, curve.Dashes = color.Gray{Y: 100}, []vg.Length{vg.Points(4), vg.Points(3)}
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: ends[:1], Labels: []string{name}})
	if err != nil {
		return err
	}
	labels.Offset = vg.Point{X: vg.Points(4), Y: vg.Points(above)}
	p.Add(curve, labels)
	return nil
}

// plainTicks writes numbers with thousands apart and without exponents.
type plainTicks struct{}

// Ticks places four to ten of them, at round numbers.
func (plainTicks) Ticks(lo, hi float64) []plot.Tick {
	if hi <= lo {
		return nil
	}
	decade := math.Pow(10, math.Floor(math.Log10((hi-lo)/4)))
	each := decade
	for _, n := range []float64{2, 5} {
		if (hi-lo)/(n*decade) >= 4 {
			each = n * decade
		}
	}
	var out []plot.Tick
	for n := math.Ceil(lo / each); n*each <= hi; n++ {
		out = append(out, plot.Tick{Value: n * each, Label: plainNumber(n * each)})
	}
	return out
}

// decadeTicks are for a logarithmic axis: 1, 10, 100, with marks between.
type decadeTicks struct{}

// Ticks places them.
func (decadeTicks) Ticks(lo, hi float64) []plot.Tick {
	var out []plot.Tick
	for decade := math.Pow(10, math.Floor(math.Log10(lo))); decade <= hi*1.0001; decade *= 10 {
		out = append(out, plot.Tick{Value: decade, Label: plainNumber(decade)})
		for n := 2.0; n < 10 && n*decade <= hi; n++ {
			out = append(out, plot.Tick{Value: n * decade})
		}
	}
	return out
}

func plainNumber(v float64) string {
	if v >= 1000 {
		return thousands(int64(math.Round(v)))
	}
	out := fmt.Sprintf("%.3f", v)
	return strings.TrimSuffix(strings.TrimRight(out, "0"), ".")
}

func plotColours() (blue, red, pale, green color.Color) {
	return color.RGBA{R: 31, G: 119, B: 180, A: 255}, color.RGBA{R: 214, G: 39, B: 40, A: 255},
		color.RGBA{R: 120, G: 160, B: 210, A: 255}, color.RGBA{R: 44, G: 160, B: 44, A: 255}
}

// limitsPlots draws what a limits run found.
func limitsPlots(dir string, r *Result) ([]chartFile, error) {
	var out []chartFile
	for _, f := range []figure{latencyOverRate(r), cpuOverRate(r), memoryOverConnections(r)} {
		if !slices.ContainsFunc(f.lines, func(l line) bool { return len(l.points) > 0 }) {
			continue
		}
		if err := f.write(dir); err != nil {
			return nil, err
		}
		out = append(out, chartFile{f.title, f.file})
	}
	return out, nil
}

// overRate is a value of each step, by rate; of a rate tried twice the better
// one, which is the last.
func overRate(r *Result, value func(LimitStep) *float64) plotter.XYs {
	byRate := map[float64]float64{}
	for _, s := range r.Limits.Steps {
		if v := value(s); v != nil {
			byRate[s.OfferedPS] = *v
		}
	}
	if o := r.Limits.Overload; o != nil {
		if v := value(*o); v != nil {
			byRate[o.OfferedPS] = *v
		}
	}
	var out plotter.XYs
	for x, y := range byRate {
		out = append(out, plotter.XY{X: x, Y: y})
	}
	slices.SortFunc(out, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
	return out
}

func kneeGuide(r *Result) []guide {
	if k := r.Limits.KneePerSecond; k != nil {
		return []guide{{*k, fmt.Sprintf("knee: %s/s", thousands(int64(*k)))}}
	}
	return nil
}

func latencyOverRate(r *Result) figure {
	blue, _, pale, _ := plotColours()
	quantile := func(of func(*Quantiles) float64) plotter.XYs {
		return overRate(r, func(s LimitStep) *float64 {
			if s.AckMs == nil {
				return nil
			}
			return some(of(s.AckMs))
		})
	}
	p50, p99 := quantile(func(q *Quantiles) float64 { return q.P50 }), quantile(func(q *Quantiles) float64 { return q.P99 })
	lowest := r.Limits.BarMs
	for _, p := range p50 {
		lowest = min(lowest, p.Y)
	}
	return figure{
		file: "latency.svg", title: fmt.Sprintf("Latency of acknowledgements over the offered rate (%s, %s)", r.Limits.Cell, r.Transport),
		x: "messages/s offered", y: "ms (logarithmic)", logarithmic: true, yMin: lowest,
		lines:  []line{{"p50", p50, pale}, {"p99", p99, blue}},
		across: []guide{{r.Limits.BarMs, fmt.Sprintf("bar: %g ms", r.Limits.BarMs)}}, upright: kneeGuide(r),
	}
}

func cpuOverRate(r *Result) figure {
	blue, red, pale, green := plotColours()
	value := func(of func(LimitStep) *float64) plotter.XYs { return overRate(r, of) }
	servers := value(func(s LimitStep) *float64 { return s.ServerCPUs })
	own := value(func(s LimitStep) *float64 { return s.OwnCPUs })
	others := value(func(s LimitStep) *float64 { return s.OtherCPUs })
	all := value(func(s LimitStep) *float64 {
		if s.ServerCPUs == nil || s.OwnCPUs == nil || s.OtherCPUs == nil {
			return nil
		}
		return some(*s.ServerCPUs + *s.OwnCPUs + *s.OtherCPUs)
	})
	return figure{
		file: "cpu.svg", title: fmt.Sprintf("CPU over the offered rate (%s, %s)", r.Limits.Cell, r.Transport), x: "messages/s offered", y: "CPUs",
		lines:   []line{{"all of the machine", all, blue}, {"servers", servers, red}, {"generator", own, green}, {"others, kernel", others, pale}},
		upright: kneeGuide(r),
	}
}

func memoryOverConnections(r *Result) figure {
	blue, _, pale, _ := plotColours()
	var servers, kernel plotter.XYs
	for _, p := range r.Limits.Connections.Points {
		servers = append(servers, plotter.XY{X: float64(p.Connections), Y: mib(p.ServerBytes)})
		kernel = append(kernel, plotter.XY{X: float64(p.Connections), Y: mib(p.KernelBytes)})
	}
	return figure{
		file: "memory.svg", title: fmt.Sprintf("Memory over idle connections (%s, growth since there were none)", r.Transport), x: "idle connections", y: "MiB",
		lines: []line{{"server processes", servers, blue}, {"kernel, both ends", kernel, pale}},
	}
}
