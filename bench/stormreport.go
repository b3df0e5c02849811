package bench

import (
	"fmt"
	"strings"

	"gonum.org/v1/plot/plotter"
)

// stormText is what a storm found, for people.
func stormText(r *Result) string {
	s := r.Storm
	var b strings.Builder
	fmt.Fprintf(&b, "\n**%s connections over %s broke at once; ", thousands(int64(s.Dropped)), r.Transport)
	switch {
	case s.BackS.P100 != nil:
		fmt.Fprintf(&b, "99 %% were back after %s, all after %s.**", seconds(s.BackS.P99), seconds(s.BackS.P100))
	case s.BackS.P99 != nil:
		fmt.Fprintf(&b, "99 %% were back after %s; %s never were.**", seconds(s.BackS.P99), thousands(int64(s.Dropped-s.Back)))
	default:
		fmt.Fprintf(&b, "only %s were back in the time given.**", thousands(int64(s.Back)))
	}
	fmt.Fprintf(&b, " %s messages were sent to them meanwhile, %s missed. They tried %s times to connect; %s could not resume and read anew.\n",
		thousands(s.SentDuring), thousands(int64(s.Missed)), thousands(s.Attempts), thousands(s.Resyncs))
	b.WriteString("\n| back | after |\n| ---: | ---: |\n")
	for _, row := range []struct {
		part string
		at   *float64
	}{{"50 %", s.BackS.P50}, {"90 %", s.BackS.P90}, {"99 %", s.BackS.P99}, {"100 %", s.BackS.P100}} {
		fmt.Fprintf(&b, "| %s | %s |\n", row.part, seconds(row.at))
	}
	b.WriteString("\n| | |\n| --- | --- |\n")
	for _, row := range resultRows(r) {
		fmt.Fprintf(&b, "| %s | %s |\n", row.name, row.value)
	}
	return b.String()
}

func seconds(v *float64) string {
	if v == nil {
		return "never"
	}
	return fmt.Sprintf("%.2f s", *v)
}

// plotPoints bounds the points of a curve: more cannot be told apart.
const plotPoints = 400

func backOverTime(r *Result, times []float64) figure {
	blue, _, _, _ := plotColours()
	points := plotter.XYs{{X: 0, Y: 0}}
	every := max(1, len(times)/plotPoints)
	for i, t := range times {
		if i%every == 0 || i == len(times)-1 {
			points = append(points, plotter.XY{X: t, Y: 100 * float64(i+1) / float64(r.Storm.Dropped)})
		}
	}
	f := figure{
		file: "back.svg", title: fmt.Sprintf("Back over time: %s connections broken at once (%s)", thousands(int64(r.Storm.Dropped)), r.Transport),
		x: "seconds since the drop", y: "% resumed", lines: []line{{"", points, blue}}, steps: true, yMax: 115,
	}
	if t := r.Storm.BackS.P99; t != nil {
		f.upright = []guide{{*t, "99 %: " + seconds(t)}}
	}
	return f
}
