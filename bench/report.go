package bench

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/waggle-im/waggle/internal/history"
)

// note is a line of the report that result.json has no key for.
type note struct{ name, value string }

// violationsShown bounds what the report repeats of the checker's findings.
const violationsShown = 50

// notes are what a run has to say beside its result.
func (l *load) notes(c *cluster, m measured) []note {
	window := m.to.at.Sub(m.from.at)
	out := clusterNotes(c)
	out = append(out,
		note{"load", l.describe()},
		note{"measured", fmt.Sprintf("%s after a warm-up of %s", l.cfg.Duration, l.cfg.WarmUp)},
		note{"acknowledged in that time", fmt.Sprintf("%d, that is %.0f messages/s", m.ackedInWindow, float64(m.ackedInWindow)/window.Seconds())},
	)
	if q := l.lag.quantiles(); q != nil {
		out = append(out, note{"the generator's own delay, part of every latency", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, at most %.2f ms", q.P50, q.P99, q.Max)})
	}
	if q := l.accepted.quantiles(); q != nil {
		out = append(out,
			note{"from the sending that was accepted to its acknowledgement", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, at most %.2f ms", q.P50, q.P99, q.Max)},
			note{"refused \"retry later\" and sent again, part of every latency below", kinds(l.refusalCounts())},
		)
	}
	if m.from.missing != nil || m.to.missing != nil {
		return append(out, note{"servers' CPU and memory", fmt.Sprintf("not known: %v", m.to.missing)})
	}
	out = append(out, cpuNotes(m)...)
	out = append(out,
		note{"kernel slab memory, before, connected, at the end", fmt.Sprintf("%d, %d, %d KiB", m.before.slab>>10, m.connected.slab>>10, m.to.slab>>10)},
		note{"kernel socket buffers at the end", fmt.Sprintf("%d KiB", m.to.sockets>>10)},
		note{"server memory, before, connected, at the end", fmt.Sprintf("%d, %d, %d KiB", m.before.memoryTotal()>>10, m.connected.memoryTotal()>>10, m.to.memoryTotal()>>10)},
	)
	out = append(out, syncNotes(m)...)
	for _, p := range c.processes {
		if p.pid == os.Getpid() {
			out = append(out, note{"generator", "in the process of the servers: CPU and memory cannot be told apart"})
		}
	}
	return out
}

// cpuNotes say who used the machine's CPUs in the measured time, where that is
// known.
func cpuNotes(m measured) []note {
	busy, idle := m.to.busy-m.from.busy, m.to.idle-m.from.idle
	return []note{
		{"servers' CPU", fmt.Sprintf("%.2f CPUs", cores(m.to.serverCPU-m.from.serverCPU, m.from, m.to))},
		{"generator's CPU", fmt.Sprintf("%.2f CPUs, on the same machine", cores(m.to.ownCPU-m.from.ownCPU, m.from, m.to))},
		{"machine", fmt.Sprintf("%.2f CPUs busy of %.2f, everything included", cores(busy, m.from, m.to), cores(busy+idle, m.from, m.to))},
		{"other programs' CPU", fmt.Sprintf("%.2f CPUs, the kernel's own work included", othersCPU(m))},
	}
}

func syncNotes(m measured) []note {
	if m.sync == nil {
		return nil
	}
	return []note{{"sync of 4 KiB, sampled during the run", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", m.sync.P50, m.sync.P99)}}
}

// othersCPU is what neither servers nor generator used of the machine.
func othersCPU(m measured) float64 {
	known := m.to.serverCPU - m.from.serverCPU + m.to.ownCPU - m.from.ownCPU
	return max(0, cores(m.to.busy-m.from.busy-known, m.from, m.to))
}

func (l *load) describe() string {
	how := fmt.Sprintf("open loop, %g messages/s", l.cfg.Rate)
	if l.cfg.Window > 0 {
		how = fmt.Sprintf("closed loop, %d outstanding in all", l.cfg.Window)
	}
	return fmt.Sprintf("%s; %d pairs of %d users, %d bytes, confirmations of received messages on", how, len(l.plan.pairs), len(l.people), l.cfg.SizeBytes)
}

func clusterNotes(c *cluster) []note {
	return []note{
		{"cluster", fmt.Sprintf("%s, commit %s, cells %s", c.mode, c.version, strings.Join(c.cells, ", "))},
		{"server processes", fmt.Sprintf("%d: %s", len(c.processes), c.names())},
	}
}

// writeReport writes report.md and the plots.
func writeReport(dir string, r *Result, notes []note, violations []history.Violation, plots charts) error {
	var b strings.Builder
	b.WriteString(reportHead(r, time.Now(), notes))
	b.WriteString("\n| | |\n| --- | --- |\n")
	for _, row := range resultRows(r) {
		fmt.Fprintf(&b, "| %s | %s |\n", row.name, row.value)
	}
	if q := r.PauseMs; q != nil {
		fmt.Fprintf(&b, "\nPause of a move, as senders of the range saw it: p50 %.1f ms, p99 %.1f ms, at most %.1f ms.\n", q.P50, q.P99, q.Max)
	}
	b.WriteString(latencyTable(r))
	files, err := plots.write(dir)
	if err != nil {
		return err
	}
	return writeParts(dir, b.String(), pictures(files), brokenPromises(violations))
}

// latencyTable is empty where nothing was measured.
func latencyTable(r *Result) string {
	if r.AckMs == nil && r.DeliverMs == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n| latency, ms | p50 | p90 | p99 | p99.9 | max |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, row := range []struct {
		name string
		q    *Quantiles
	}{{"acknowledged", r.AckMs}, {"delivered", r.DeliverMs}} {
		if q := row.q; q != nil {
			fmt.Fprintf(&b, "| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", row.name, q.P50, q.P90, q.P99, q.P999, q.Max)
		}
	}
	return b.String()
}

// resultRows are the counts of a result, for people.
func resultRows(r *Result) []note {
	var out []note
	add := func(name, format string, args ...any) { out = append(out, note{name, fmt.Sprintf(format, args...)}) }
	add("connections", "%d", r.Connections)
	if r.Mode != "idle" {
		add("offered rate", "%.0f messages/s", r.OfferedRate)
		add("sent, acknowledged, received", "%d, %d, %d", r.Sent, r.Acked, r.Received)
		add("lost, doubled, reordered", "%d, %d, %d", r.Lost, r.Doubled, r.Reordered)
	}
	add("disconnects", "%d", r.Disconnects)
	kinds := make([]string, 0, len(r.Errors))
	for kind := range r.Errors {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		add("errors: "+kind, "%d", r.Errors[kind])
	}
	for _, v := range []struct {
		name  string
		value *float64
	}{
		{"server bytes per connection", r.ServerBytesPerConnection},
		{"kernel bytes per connection (slab growth of the machine, both ends)", r.KernelBytesPerConnection},
		{"server CPU per message, µs", r.CPUUsPerMessage},
		{"server CPU per idle connection, µs/s", r.CPUUsPerIdleConnection},
		{"connects per second", r.ConnectsPerSecond},
	} {
		if v.value != nil {
			add(v.name, "%.1f", *v.value)
		}
	}
	names := make([]string, 0, len(r.ServerBytesByNode))
	for name := range r.ServerBytesByNode {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		add("growth of "+name, "%d bytes", r.ServerBytesByNode[name])
	}
	if r.LimitedBy != "" {
		add("limited by", "%s", r.LimitedBy)
	}
	return out
}
