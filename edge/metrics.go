package edge

import "github.com/prometheus/client_golang/prometheus"

// collector reads the counts of an edge when it is asked, so that counting
// costs the message path one atomic addition.
type collector struct{ e *Edge }

// metric is one number of an edge.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*Edge) float64
}

func metrics() []metric {
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	return []metric{
		{"waggle_edge_sessions", "Logged-in sessions.", gauge, func(e *Edge) float64 { return float64(e.sessions.Len()) }},
		{"waggle_edge_connections", "Native connections, logged in or not.", gauge, func(e *Edge) float64 { return float64(e.listener.Stats().Open) }},
		{"waggle_edge_half_open", "Connections that have not logged in.", gauge, func(e *Edge) float64 { return float64(e.listener.Stats().HalfOpen) }},
		{"waggle_edge_connections_refused_total", "Connections refused by a limit.", counter, func(e *Edge) float64 { return float64(e.listener.Stats().Refused) }},
		{"waggle_edge_logins_total", "Sessions that got their Welcome.", counter, func(e *Edge) float64 { return float64(e.sessions.Stats().Logins) }},
		{"waggle_edge_sessions_refused_total", "Sessions ended with an error.", counter, func(e *Edge) float64 { return float64(e.sessions.Stats().Refused) }},
		{"waggle_edge_requests_total", "Requests taken from clients.", counter, func(e *Edge) float64 { return float64(e.sessions.Stats().Requests) }},
		{"waggle_edge_requests_repeated_total", "Requests sent again after a re-attach.", counter, func(e *Edge) float64 { return float64(e.sessions.Stats().Repeated) }},
		{"waggle_edge_messages_held_total", "Messages refused \"retry later\", since too many were under way.", counter, func(e *Edge) float64 { return float64(e.sessions.Stats().Held) }},
		{"waggle_edge_overloaded", "1 while messages are late for so many that fewer are let through, 0 else.", gauge, func(e *Edge) float64 {
			if e.sessions.Stats().Overloaded {
				return 1
			}
			return 0
		}},
		{"waggle_edge_pushes_total", "Pushes written to clients.", counter, func(e *Edge) float64 { return float64(e.sessions.Stats().Pushes) }},
		{"waggle_edge_pushes_dropped_total", "Pushes not written because the client reads slowly or one was missing.", counter, func(e *Edge) float64 { return float64(e.sessions.Stats().Dropped) }},
		{"waggle_edge_fetches_total", "Times missing updates were asked for.", counter, func(e *Edge) float64 { return float64(e.sessions.Stats().Fetches) }},
		{"waggle_edge_attaches_total", "Attach frames sent to hosts.", counter, func(e *Edge) float64 { return float64(e.router.Stats().Attaches) }},
		{"waggle_edge_host_streams_broken_total", "Streams to hosts that broke or went silent.", counter, func(e *Edge) float64 { return float64(e.router.Stats().BrokenStreams) }},
	}
}

func (m metric) desc(e *Edge) *prometheus.Desc {
	return prometheus.NewDesc(m.name, m.help, nil, prometheus.Labels{"edge": string(e.deps.Node)})
}

// Describe implements [prometheus.Collector].
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range metrics() {
		out <- m.desc(c.e)
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, m := range metrics() {
		out <- prometheus.MustNewConstMetric(m.desc(c.e), m.kind, m.value(c.e))
	}
}
