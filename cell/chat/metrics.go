package chat

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	grants        prometheus.Counter
	sends         prometheus.Counter
	pushes        prometheus.Counter
	catchUpPages  prometheus.Counter
	batchCommands prometheus.Histogram
	sessions      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		grants:        prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_chat_grants_total", Help: "Ranges granted to this node."}),
		sends:         prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_chat_sends_total", Help: "Messages asked for by sessions hosted here."}),
		pushes:        prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_chat_pushes_total", Help: "Frames of updates pushed to sessions."}),
		catchUpPages:  prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_chat_catch_up_pages_total", Help: "Pages of updates read for sessions that were behind."}),
		batchCommands: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "waggle_chat_batch_commands", Help: "Commands per proposed batch.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		sessions:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "waggle_chat_sessions", Help: "Sessions hosted here."}),
	}
	if reg != nil {
		reg.MustRegister(m.grants, m.sends, m.pushes, m.catchUpPages, m.batchCommands, m.sessions)
	}
	return m
}
