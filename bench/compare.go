package bench

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
)

// Compare prints two results side by side, with the ratio of b to a. What one
// of them lacks is left out. It warns where they were not had alike.
func Compare(a, b *Result, out io.Writer) error {
	for _, d := range []struct{ name, a, b string }{
		{"mode", a.Mode, b.Mode}, {"machine", a.Machine, b.Machine}, {"transport", a.Transport, b.Transport},
		{"placement", a.Placement, b.Placement}, {"connections", strconv.Itoa(a.Connections), strconv.Itoa(b.Connections)},
	} {
		if d.a != d.b {
			fmt.Fprintf(out, "not alike: %s is %s, and %s\n", d.name, d.a, d.b)
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\ta (%s)\tb (%s)\tb/a\t\n", a.Commit, b.Commit)
	for _, row := range compared() {
		x, y := row.value(a), row.value(b)
		if x == nil || y == nil || *x == 0 && *y == 0 {
			continue
		}
		ratio := "-"
		if *x != 0 {
			ratio = fmt.Sprintf("%.3f", *y / *x)
		}
		fmt.Fprintf(w, "%s\t%.10g\t%.10g\t%s\t\n", row.name, *x, *y, ratio)
	}
	return w.Flush()
}

type comparedRow struct {
	name  string
	value func(*Result) *float64
}

func compared() []comparedRow {
	count := func(f func(*Result) int64) func(*Result) *float64 {
		return func(r *Result) *float64 { return some(float64(f(r))) }
	}
	rows := []comparedRow{
		{"offered_rate", func(r *Result) *float64 { return some(r.OfferedRate) }},
		{"sent", count(func(r *Result) int64 { return r.Sent })},
		{"acked", count(func(r *Result) int64 { return r.Acked })},
		{"received", count(func(r *Result) int64 { return r.Received })},
		{"lost", count(func(r *Result) int64 { return int64(r.Lost) })},
		{"doubled", count(func(r *Result) int64 { return int64(r.Doubled) })},
		{"reordered", count(func(r *Result) int64 { return int64(r.Reordered) })},
		{"disconnects", count(func(r *Result) int64 { return r.Disconnects })},
		{"server_bytes_per_connection", func(r *Result) *float64 { return r.ServerBytesPerConnection }},
		{"kernel_bytes_per_connection", func(r *Result) *float64 { return r.KernelBytesPerConnection }},
		{"cpu_us_per_message", func(r *Result) *float64 { return r.CPUUsPerMessage }},
		{"cpu_us_per_idle_connection", func(r *Result) *float64 { return r.CPUUsPerIdleConnection }},
		{"connects_per_s", func(r *Result) *float64 { return r.ConnectsPerSecond }},
	}
	for _, kind := range []struct {
		name string
		of   func(*Result) *Quantiles
	}{
		{"ack_ms", func(r *Result) *Quantiles { return r.AckMs }},
		{"deliver_ms", func(r *Result) *Quantiles { return r.DeliverMs }},
		{"pause_ms", func(r *Result) *Quantiles { return r.PauseMs }},
	} {
		for _, q := range []struct {
			name string
			of   func(*Quantiles) float64
		}{
			{"p50", func(q *Quantiles) float64 { return q.P50 }}, {"p90", func(q *Quantiles) float64 { return q.P90 }},
			{"p99", func(q *Quantiles) float64 { return q.P99 }}, {"p999", func(q *Quantiles) float64 { return q.P999 }},
			{"max", func(q *Quantiles) float64 { return q.Max }},
		} {
			rows = append(rows, comparedRow{kind.name + "." + q.name, func(r *Result) *float64 {
				if have := kind.of(r); have != nil {
					return some(q.of(have))
				}
				return nil
			}})
		}
	}
	return rows
}
