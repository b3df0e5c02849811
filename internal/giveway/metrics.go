package giveway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	descWaited = prometheus.NewDesc("waggle_transfers_waited_seconds_total", "Time that transfers of files have given way to messages, all together.", nil, nil)
	descBytes  = prometheus.NewDesc("waggle_transfers_bytes_total", "Content of files that passed this process; twice, if it passed an edge and a node of it.", nil, nil)
	descLimit  = prometheus.NewDesc("waggle_transfers_limit_bytes_per_second", "What transfers of files may move while messages flow; 0: no limit now.", nil, nil)
	descLate   = prometheus.NewDesc("waggle_transfers_late_seconds", "How late this process gets to things, one in ten, while files move.", nil, nil)
)

// Stats are counts since the start, and the limit of now.
type Stats struct {
	Moved  int64         // bytes of content that came to the gate
	Waited time.Duration // of all transfers together
	Limit  int64         // bytes per second; 0: none
}

// Stats counts.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	limit := int64(g.pace.limit)
	g.mu.Unlock()
	return Stats{Moved: g.moved.Load(), Waited: time.Duration(g.waited.Load()), Limit: limit}
}

// Describe implements [prometheus.Collector].
func (g *Gate) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descWaited, descBytes, descLimit, descLate} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (g *Gate) Collect(out chan<- prometheus.Metric) {
	g.mu.Lock()
	late := g.late
	g.mu.Unlock()
	stats := g.Stats()
	out <- prometheus.MustNewConstMetric(descWaited, prometheus.CounterValue, stats.Waited.Seconds())
	out <- prometheus.MustNewConstMetric(descBytes, prometheus.CounterValue, float64(stats.Moved))
	out <- prometheus.MustNewConstMetric(descLimit, prometheus.GaugeValue, float64(stats.Limit))
	out <- prometheus.MustNewConstMetric(descLate, prometheus.GaugeValue, late.Seconds())
}
