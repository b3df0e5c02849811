package live

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-im/waggle/proto"
)

// The values of the label "protocol".
const (
	protocolRTSP = "rtsp"
	protocolRTMP = "rtmp"
	protocolHLS  = "hls"
	toFile       = "recording"
)

// metrics have a series per livestream, which ends with it.
type metrics struct {
	received  *prometheus.CounterVec
	sent      *prometheus.CounterVec
	dropped   *prometheus.CounterVec
	lost      *prometheus.CounterVec
	slow      *prometheus.CounterVec
	viewers   *prometheus.GaugeVec
	streams   prometheus.Gauge
	refused   *prometheus.CounterVec
	recording prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waggle_live_" + name, Help: help}, labels)
	}
	m := &metrics{
		received:  vec("received_bytes_total", "Bytes of media from the publisher.", "live", "protocol"),
		sent:      vec("sent_bytes_total", "Bytes of media towards viewers, for HLS towards edges.", "live", "protocol"),
		dropped:   vec("dropped_units_total", "Frames left out for a viewer, the HLS segments or the recording that was too slow.", "live", "protocol"),
		lost:      vec("lost_packets_total", "RTP packets of the publisher that did not arrive.", "live"),
		slow:      vec("slow_viewers_total", "Viewers closed because they were too slow.", "live", "protocol"),
		viewers:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waggle_live_viewers", Help: "Viewers now."}, []string{"live", "protocol"}),
		streams:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "waggle_live_streams", Help: "Livestreams on this node, with those that wait for their publisher to come back."}),
		refused:   vec("refused_total", "Publishers and viewers refused.", "protocol"),
		recording: prometheus.NewGauge(prometheus.GaugeOpts{Name: "waggle_live_recordings_waiting", Help: "Recordings that wait to be handed over."}),
	}
	if reg != nil {
		reg.MustRegister(m.received, m.sent, m.dropped, m.lost, m.slow, m.viewers, m.streams, m.refused, m.recording)
	}
	return m
}

// streamMetrics are the series of one livestream. What still counts in them
// after its end makes no new ones.
type streamMetrics struct {
	received, sent, dropped, slow map[string]prometheus.Counter // by protocol
	viewers                       map[string]prometheus.Gauge
	lost                          prometheus.Counter
}

func (m *metrics) of(id proto.LiveID) *streamMetrics {
	live := id.String()
	counters := func(vec *prometheus.CounterVec, protocols ...string) map[string]prometheus.Counter {
		out := make(map[string]prometheus.Counter)
		for _, p := range protocols {
			out[p] = vec.WithLabelValues(live, p)
		}
		return out
	}
	return &streamMetrics{
		received: counters(m.received, protocolRTSP, protocolRTMP),
		sent:     counters(m.sent, protocolRTSP, protocolRTMP, protocolHLS),
		dropped:  counters(m.dropped, protocolRTSP, protocolRTMP, protocolHLS, toFile),
		slow:     counters(m.slow, protocolRTSP, protocolRTMP),
		lost:     m.lost.WithLabelValues(live),
		viewers: map[string]prometheus.Gauge{
			protocolRTSP: m.viewers.WithLabelValues(live, protocolRTSP),
			protocolRTMP: m.viewers.WithLabelValues(live, protocolRTMP),
			protocolHLS:  m.viewers.WithLabelValues(live, protocolHLS),
		},
	}
}

// forget ends the series of a livestream.
func (m *metrics) forget(id proto.LiveID) {
	of := prometheus.Labels{"live": id.String()}
	for _, vec := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.received, m.sent, m.dropped, m.lost, m.slow, m.viewers} {
		vec.DeletePartialMatch(of)
	}
}
