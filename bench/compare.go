package bench

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// ReadResults reads the results of repeated runs: a list of files and folders
// apart by commas, each of which may be a pattern such as `out/*/limits-tcp`.
func ReadResults(list string) ([]*Result, error) {
	var out []*Result
	for item := range strings.SplitSeq(list, ",") {
		if item == "" {
			continue
		}
		paths, err := filepath.Glob(item)
		if err != nil {
			return nil, fmt.Errorf("bench: %q: %w", item, err)
		}
		if len(paths) == 0 {
			paths = []string{item} // reading it says what is wrong
		}
		for _, path := range paths {
			r, err := ReadResult(path)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("bench: %q names no result", list)
	}
	return out, nil
}

// Compare prints two sets of results side by side, with the ratio of b's median
// to a's and, of repeated runs, from where to where they reach. What one of
// the sets lacks is left out. It warns where they were not had alike.
func Compare(a, b []*Result, out io.Writer) error {
	if len(a) == 0 || len(b) == 0 {
		return errors.New("bench: compare: there is no result")
	}
	notAlike(a, b, out)
	repeated := len(a) > 1 || len(b) > 1
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if repeated {
		fmt.Fprintf(w, "medians of\t%d of a (%s)\tmin–max\t%d of b (%s)\tmin–max\tb/a\t\n", len(a), commits(a), len(b), commits(b))
	} else {
		fmt.Fprintf(w, "\ta (%s)\tb (%s)\tb/a\t\n", a[0].Commit, b[0].Commit)
	}
	for _, row := range compared() {
		x, y := row.values(a), row.values(b)
		if len(x) == 0 || len(y) == 0 || x[len(x)-1] == 0 && y[len(y)-1] == 0 {
			continue
		}
		ratio := "-"
		if median(x) != 0 {
			ratio = fmt.Sprintf("%.3f", median(y)/median(x))
		}
		if repeated {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", row.name, figureOf(median(x)), spread(x), figureOf(median(y)), spread(y), ratio)
		} else {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", row.name, figureOf(x[0]), figureOf(y[0]), ratio)
		}
	}
	return w.Flush()
}

// notAlike says in what the runs differ that should not.
func notAlike(a, b []*Result, out io.Writer) {
	for _, d := range []struct {
		name string
		of   func(*Result) string
	}{
		{"mode", func(r *Result) string { return r.Mode }}, {"machine", func(r *Result) string { return r.Machine }},
		{"transport", func(r *Result) string { return r.Transport }}, {"placement", func(r *Result) string { return r.Placement }},
		{"connections", func(r *Result) string { return strconv.Itoa(r.Connections) }},
	} {
		if x, y := distinct(a, d.of), distinct(b, d.of); x != y || strings.Contains(x, " or ") {
			fmt.Fprintf(out, "not alike: %s is %s, and %s\n", d.name, x, y)
		}
	}
}

func distinct(set []*Result, of func(*Result) string) string {
	var out []string
	for _, r := range set {
		out = append(out, of(r))
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " or ")
}

func commits(set []*Result) string {
	return distinct(set, func(r *Result) string { return r.Commit })
}

// median is of sorted values, at least one.
func median(values []float64) float64 {
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func spread(values []float64) string {
	return figureOf(values[0]) + "–" + figureOf(values[len(values)-1])
}

func figureOf(v float64) string { return fmt.Sprintf("%.10g", v) }

type comparedRow struct {
	name  string
	value func(*Result) *float64
}

// values are what the results that have it say, sorted.
func (c comparedRow) values(set []*Result) []float64 {
	var out []float64
	for _, r := range set {
		if v := c.value(r); v != nil {
			out = append(out, *v)
		}
	}
	slices.Sort(out)
	return out
}

// comparedLimits are of modes limits and storm.
func comparedLimits() []comparedRow {
	limits := func(of func(*Limits) *float64) func(*Result) *float64 {
		return func(r *Result) *float64 {
			if r.Limits == nil {
				return nil
			}
			return of(r.Limits)
		}
	}
	storm := func(of func(*Storm) *float64) func(*Result) *float64 {
		return func(r *Result) *float64 {
			if r.Storm == nil {
				return nil
			}
			return of(r.Storm)
		}
	}
	return []comparedRow{
		{"limits.held", limits(func(l *Limits) *float64 { return some(float64(l.Connections.Held)) })},
		{"limits.knee_per_s", limits(func(l *Limits) *float64 { return l.KneePerSecond })},
		{"limits.overload_share", limits(func(l *Limits) *float64 { return l.OverloadShare })},
		{"storm.back_s.p50", storm(func(s *Storm) *float64 { return s.BackS.P50 })},
		{"storm.back_s.p90", storm(func(s *Storm) *float64 { return s.BackS.P90 })},
		{"storm.back_s.p99", storm(func(s *Storm) *float64 { return s.BackS.P99 })},
		{"storm.back_s.p100", storm(func(s *Storm) *float64 { return s.BackS.P100 })},
		{"storm.missed", storm(func(s *Storm) *float64 { return some(float64(s.Missed)) })},
	}
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
	return append(rows, comparedLimits()...)
}
