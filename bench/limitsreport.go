package bench

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waggle-im/waggle/internal/history"
)

// report writes report.md and the plots of a limits run.
func (r *limitsRun) report(res *Result, unsettled error, violations []history.Violation) error {
	files, err := limitsPlots(r.cfg.Out, res)
	if err != nil {
		return err
	}
	notes := append(clusterNotes(r.c),
		note{"load", fmt.Sprintf("open loop, %d pairs in %s, %d bytes a message, confirmations of received messages on; each rate for %s after %s of warm-up, one that broke was tried again",
			r.cfg.Pairs, r.cfg.Cell, r.cfg.SizeBytes, r.cfg.Step, r.cfg.WarmUp)},
		note{"latency", "from when a message was due to its acknowledgement"},
		note{"idle connections", fmt.Sprintf("held by %d client processes, subscribed, a heartbeat every 30 s; they stayed while messages were sent", min(r.cfg.Levels, res.Limits.Connections.Bound))},
	)
	for _, p := range r.c.processes {
		if p.pid == os.Getpid() {
			notes = append(notes, note{"generator", "in the process of the servers: CPU and memory cannot be told apart"})
		}
	}
	if unsettled != nil {
		notes = append(notes, note{"not settled", unsettled.Error()})
	}
	return writeParts(r.cfg.Out, reportHead(res, time.Now(), notes), limitsText(res), pictures(files), brokenPromises(violations))
}

// writeParts writes report.md.
func writeParts(dir string, parts ...string) error {
	if err := os.WriteFile(filepath.Join(dir, reportFile), []byte(strings.Join(parts, "")), 0o644); err != nil {
		return fmt.Errorf("bench: write the report: %w", err)
	}
	return nil
}

// limitsText is what a limits run found, for people: a paragraph, then tables.
func limitsText(r *Result) string {
	f := r.Limits
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", limitsSummary(r))
	fmt.Fprintf(&b, "\n## Connections\n\n%s\n", connectionsSummary(r))
	if len(f.Connections.Points) > 0 {
		b.WriteString("\n| idle connections | server memory, MiB | bytes each | kernel memory, MiB | connected in, s |\n| ---: | ---: | ---: | ---: | ---: |\n")
		for _, p := range f.Connections.Points {
			fmt.Fprintf(&b, "| %s | %.1f | %s | %.1f | %.1f |\n", thousands(int64(p.Connections)), mib(p.ServerBytes), thousands(p.ServerBytes/int64(p.Connections)), mib(p.KernelBytes), p.ConnectS)
		}
	}
	fmt.Fprintf(&b, "\n## Messages\n\nThe knee is the highest offered rate of which at least 99 %% was acknowledged within %g ms.\n", f.BarMs)
	b.WriteString("\n| offered/s | acknowledged/s | within the bar | p50 ms | p99 ms | generator late, p99 ms | CPUs busy | servers | generator | others | verdict |\n")
	b.WriteString("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n")
	for i := range f.Steps {
		b.WriteString(f.Steps[i].row(f.Steps[i].verdict(f)))
	}
	if f.Overload != nil {
		b.WriteString(f.Overload.row("twice the knee"))
	}
	fmt.Fprintf(&b, "\n## Counts\n\n| | |\n| --- | --- |\n")
	for _, row := range resultRows(r) {
		fmt.Fprintf(&b, "| %s | %s |\n", row.name, row.value)
	}
	return b.String()
}

func (s *LimitStep) verdict(f *Limits) string {
	switch {
	case s.Passed && f.KneePerSecond != nil && s.OfferedPS == *f.KneePerSecond:
		return "**the knee**"
	case s.Passed:
		return "holds"
	case s.CutShort:
		return "broke: " + s.Broke + " (cut short, seconds behind)"
	}
	return "broke: " + s.Broke
}

func (s *LimitStep) row(verdict string) string {
	p50, p99, lag := "-", "-", "-"
	if s.AckMs != nil {
		p50, p99 = fmt.Sprintf("%.1f", s.AckMs.P50), fmt.Sprintf("%.1f", s.AckMs.P99)
	}
	if s.LagMs != nil {
		lag = fmt.Sprintf("%.1f", s.LagMs.P99)
	}
	within := "-"
	if s.Due > 0 {
		within = fmt.Sprintf("%.1f %%", 100*float64(s.InBar)/float64(s.Due))
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", thousands(int64(s.OfferedPS)), thousands(int64(s.AckedPS)), within, p50, p99, lag,
		percent(s.BusyShare), decimal(s.ServerCPUs), decimal(s.OwnCPUs), decimal(s.OtherCPUs), verdict)
}

// limitsSummary is the paragraph at the top.
func limitsSummary(r *Result) string {
	f := r.Limits
	connections := thousands(int64(f.Connections.Held)) + " idle connections"
	switch {
	case f.Refused != "":
		return fmt.Sprintf("**%s holds %s over %s. Its limit in messages is not known: the generator was the limit.** %s.", f.Cell, connections, r.Transport, sentence(f.Refused))
	case f.KneePerSecond == nil:
		return fmt.Sprintf("**%s holds %s over %s, and no rate tried with p99 <= %g ms.** What broke: %s, %s.", f.Cell, connections, r.Transport, f.BarMs, f.Broke, f.Detail)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "**%s holds %s and, at the same time, %s messages/s with p99 <= %g ms over %s.**", f.Cell, connections, thousands(int64(*f.KneePerSecond)), f.BarMs, r.Transport)
	if f.Broke == brokeBound {
		fmt.Fprintf(&b, " More was not tried: %s.", f.Detail)
	} else {
		fmt.Fprintf(&b, " %s broke first: %s.", sentence(f.Broke), f.Detail)
	}
	if room := f.Headroom.describe(); room != "" {
		fmt.Fprintf(&b, " At the knee %s.", room)
	}
	if o := f.Overload; o != nil && f.OverloadShare != nil {
		fmt.Fprintf(&b, " Offered twice that rate it acknowledged %s messages/s, %.0f %% of what it did at the knee", thousands(int64(o.AckedPS)), 100**f.OverloadShare)
		if o.AckMs != nil {
			fmt.Fprintf(&b, ", with p99 %s", duration(o.AckMs.P99))
		}
		if o.AcceptedMs != nil && len(o.Refusals) > 0 {
			fmt.Fprintf(&b, " from when they were due and %s from the sending that was accepted", duration(o.AcceptedMs.P99))
		}
		fmt.Fprintf(&b, "; refusals, after which clients sent again: %s.", kinds(o.Refusals))
	}
	return b.String()
}

// connectionsSummary says how far the ramp came.
func connectionsSummary(r *Result) string {
	f := r.Limits.Connections
	var b strings.Builder
	fmt.Fprintf(&b, "%s idle connections were held", thousands(int64(f.Held)))
	switch {
	case f.Broke != "":
		fmt.Fprintf(&b, "; more broke: %s", f.Broke)
	case f.BoundedBy != "":
		fmt.Fprintf(&b, "; more were not tried: %s", f.BoundedBy)
	case f.Held == f.Asked:
		b.WriteString(", all that --connections-max asks for: nothing broke")
	}
	if v := r.ServerBytesPerConnection; v != nil {
		fmt.Fprintf(&b, ". Each took %s bytes of the servers", thousands(int64(*v)))
		if k := r.KernelBytesPerConnection; k != nil {
			fmt.Fprintf(&b, ", %s of the kernel (both ends)", thousands(int64(*k)))
		}
		if c := r.CPUUsPerIdleConnection; c != nil {
			fmt.Fprintf(&b, " and %.1f µs of CPU a second", *c)
		}
	}
	b.WriteString(".")
	return b.String()
}

func (h Headroom) describe() string {
	var out []string
	if h.CPUBusyShare != nil {
		out = append(out, fmt.Sprintf("the machine's CPUs were %.0f %% busy (servers %s, generator %s CPUs)", 100**h.CPUBusyShare, decimal(h.ServerCPUs), decimal(h.OwnCPUs)))
	}
	if h.MemoryTotal > 0 {
		out = append(out, fmt.Sprintf("%.1f of %.1f GiB of memory were used", float64(h.MemoryUsed)/(1<<30), float64(h.MemoryTotal)/(1<<30)))
	}
	if h.Descriptors > 0 {
		out = append(out, fmt.Sprintf("%s of %s descriptors were open in the fullest edge process", thousands(h.Descriptors), thousands(h.DescriptorsLimit)))
	}
	return strings.Join(out, ", ")
}

// reportHead is the title and the stamp.
func reportHead(r *Result, at time.Time, notes []note) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# waggle-bench %s\n\n", r.Mode)
	fmt.Fprintf(&b, "- command: `%s`\n- time: %s\n- commit: %s\n- machine: %s\n- transport: %s\n", r.Command, at.UTC().Format(time.RFC3339), r.Commit, r.Machine, r.Transport)
	if r.Placement != "" {
		fmt.Fprintf(&b, "- placement: %s\n", r.Placement)
	}
	for _, n := range notes {
		fmt.Fprintf(&b, "- %s: %s\n", n.name, n.value)
	}
	return b.String()
}

func pictures(files []chartFile) string {
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "\n![%s](%s)\n", f.title, f.file)
	}
	return b.String()
}

// brokenPromises is what the checker found, empty if nothing.
func brokenPromises(violations []history.Violation) string {
	if len(violations) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n## Broken promises\n\n%d findings; the first ones:\n\n", len(violations))
	for _, v := range violations[:min(len(violations), violationsShown)] {
		fmt.Fprintf(&b, "- %s\n", v)
	}
	return b.String()
}

// thousands writes a number as people read it: 12,345.
func thousands(n int64) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func percent(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100**v)
}

func decimal(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", *v)
}

// duration is milliseconds, in seconds where these are many.
func duration(ms float64) string {
	if ms >= 1000 {
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return fmt.Sprintf("%.1f ms", ms)
}

// kinds lists counts by name.
func kinds(counts map[string]int) string {
	if len(counts) == 0 {
		return "none"
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%s %s", thousands(int64(counts[k])), k))
	}
	return strings.Join(out, ", ")
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// sentence begins with a capital.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
