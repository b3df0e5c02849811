package replica

import "github.com/prometheus/client_golang/prometheus"

// metrics counts what the node does. Rates of proposals to syncs show how
// well one sync serves many groups.
type metrics struct {
	rounds, syncs, entries, proposals, applied    prometheus.Counter
	ticks, wakes, leaderChanges, failed           prometheus.Counter
	sent, received, dropped, truncations          prometheus.Counter
	snapshotsSent, snapshotBytes, snapshotsFailed prometheus.Counter
	snapshotsInstalled                            prometheus.Counter
	quiet, replicas                               prometheus.Gauge
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "waggle", Subsystem: "replica", Name: name + "_total", Help: help,
		})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "waggle", Subsystem: "replica", Name: name, Help: help,
		})
	}
	return &metrics{
		rounds:             counter("rounds", "Rounds of the loop."),
		syncs:              counter("log_syncs", "Synced writes of the log store."),
		entries:            counter("log_entries", "Entries written to the log store."),
		proposals:          counter("proposals", "Proposals appended by this node as leader."),
		applied:            counter("applied_entries", "Entries applied."),
		ticks:              counter("group_ticks", "Ticks of groups that do not rest."),
		wakes:              counter("wakes", "Quiet groups woken."),
		leaderChanges:      counter("leader_changes", "Changes of leader or term seen by this node's replicas."),
		failed:             counter("failed", "Replicas that stopped themselves."),
		sent:               counter("messages_sent", "Raft messages handed to the transport."),
		received:           counter("messages_received", "Raft messages received."),
		dropped:            counter("messages_dropped", "Raft messages dropped because a queue was full."),
		truncations:        counter("truncations", "Logs cut."),
		snapshotsSent:      counter("snapshots_sent", "Snapshots sent to the end."),
		snapshotBytes:      counter("snapshot_sent_bytes", "Bytes of snapshots sent."),
		snapshotsFailed:    counter("snapshots_failed", "Snapshots that were broken off."),
		snapshotsInstalled: counter("snapshots_installed", "Snapshots installed here."),
		quiet:              gauge("quiet", "Groups that rest."),
		replicas:           gauge("replicas", "Replicas on this node."),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{
		m.rounds, m.syncs, m.entries, m.proposals, m.applied, m.ticks, m.wakes, m.leaderChanges, m.failed,
		m.sent, m.received, m.dropped, m.truncations, m.snapshotsSent, m.snapshotBytes, m.snapshotsFailed,
		m.snapshotsInstalled, m.quiet, m.replicas,
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}
