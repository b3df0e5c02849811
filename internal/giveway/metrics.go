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

// Describe implements [prometheus.Collector].
func (g *Gate) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descWaited, descBytes, descLimit, descLate} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (g *Gate) Collect(out chan<- prometheus.Metric) {
	g.mu.Lock()
	limit, late := g.pace.limit, g.late
	g.mu.Unlock()
	out <- prometheus.MustNewConstMetric(descWaited, prometheus.CounterValue, time.Duration(g.waited.Load()).Seconds())
	out <- prometheus.MustNewConstMetric(descBytes, prometheus.CounterValue, float64(g.moved.Load()))
	out <- prometheus.MustNewConstMetric(descLimit, prometheus.GaugeValue, limit)
	out <- prometheus.MustNewConstMetric(descLate, prometheus.GaugeValue, late.Seconds())
}
