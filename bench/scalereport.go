package bench

import (
	"fmt"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"
)

// scaleText is what scale found, for people.
func scaleText(r *Result) string {
	var b strings.Builder
	s := r.Scale
	fmt.Fprintf(&b, "\n**The same %s messages/s over different numbers of cells, servers and generator on one machine.**", thousands(int64(r.OfferedRate)))
	if v := s.ServerBytesPerFurtherCell; v != nil {
		fmt.Fprintf(&b, " Each further cell takes %.1f MiB.", mib(int64(*v)))
	}
	b.WriteString("\n\n| cells | pairs across cells | messages/s | server CPU, µs/message | ack p50, ms | ack p99, ms | server memory, MiB | MiB per cell | lost, doubled, reordered |\n")
	b.WriteString("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n")
	for _, p := range s.Points {
		fmt.Fprintf(&b, "| %d | %.0f %% | %s | %s | %s | %s | %s | %s | %d, %d, %d |\n", p.Cells, 100*p.CrossCellShare, p.AckedPS.text(1), p.CPUUsPerMessage.text(1),
			p.AckP50Ms.text(1), p.AckP99Ms.text(1), p.ServerBytes.text(1<<20), p.ServerBytesCell.text(1<<20), p.Lost, p.Doubled, p.Reordered)
	}
	for _, p := range s.Points {
		if p.Refused != "" {
			fmt.Fprintf(&b, "\nNo number for %d cells: %s.\n", p.Cells, p.Refused)
		}
	}
	return b.String()
}

// text is the median in a unit and, where runs differ, from where to where they
// reach.
func (s *Spread) text(unit float64) string {
	switch {
	case s == nil:
		return "-"
	case s.Min == s.Max:
		return fmt.Sprintf("%.1f", s.Median/unit)
	}
	return fmt.Sprintf("%.1f (%.1f–%.1f)", s.Median/unit, s.Min/unit, s.Max/unit)
}

func scalePlots(r *Result) []figure {
	blue, red, _, _ := plotColours()
	points := func(of func(ScalePoint) *Spread, unit float64) (out plotter.XYs) {
		for _, p := range r.Scale.Points {
			if v := of(p); v != nil {
				out = append(out, plotter.XY{X: float64(p.Cells), Y: v.Median / unit})
			}
		}
		return out
	}
	rate := thousands(int64(r.OfferedRate))
	return []figure{
		{
			file: "cpu.svg", title: fmt.Sprintf("CPU per message over cells (%s/s, %s)", rate, r.Transport), x: "cells", y: "µs",
			lines: []line{{"servers, µs/message", points(func(p ScalePoint) *Spread { return p.CPUUsPerMessage }, 1), blue}},
		},
		{
			file: "memory.svg", title: fmt.Sprintf("Server memory over cells (%s/s, %s)", rate, r.Transport), x: "cells", y: "MiB",
			lines: []line{
				{"in all", points(func(p ScalePoint) *Spread { return p.ServerBytes }, 1<<20), blue},
				{"per cell", points(func(p ScalePoint) *Spread { return p.ServerBytesCell }, 1<<20), red},
			},
		},
	}
}

func (cfg *ScaleConfig) report(r *Result) error {
	var files []chartFile
	if r.Scale.refused() == nil {
		for _, f := range scalePlots(r) {
			if err := f.write(cfg.Out); err != nil {
				return err
			}
			files = append(files, chartFile{f.title, f.file})
		}
	}
	notes := []note{
		{"clusters", "embedded (`waggle dev`), one after the other, limits per user and per address lifted"},
		{"load", fmt.Sprintf("open loop, %g messages/s in all from %d pairs, %d bytes, %s after a warm-up of %s, %d runs each", cfg.Rate, cfg.Pairs, cfg.SizeBytes, cfg.Duration, cfg.WarmUp, cfg.Repeat)},
	}
	return writeParts(cfg.Out, reportHead(r, time.Now(), notes), scaleText(r), pictures(files))
}
