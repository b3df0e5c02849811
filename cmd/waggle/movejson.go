package main

import (
	"strconv"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

type moveJSON struct {
	Move         string   `json:"move"`
	Range        string   `json:"range"`
	From         string   `json:"from"`
	To           string   `json:"to"`
	State        string   `json:"state"`
	Percent      float64  `json:"percent"` // of the copy
	Bytes        uint64   `json:"bytes"`   // of the range
	LagEntries   uint64   `json:"lag_entries"`
	PauseMs      float64  `json:"pause_ms"` // 0: not known
	Error        string   `json:"error"`    // what it waits for, or why it was cancelled
	By           string   `json:"by"`
	Reason       string   `json:"reason"`
	Started      string   `json:"started"`
	Since        string   `json:"since"` // in this state
	StandbyUntil string   `json:"standby_until"`
	Add          []string `json:"add"`  // nodes
	Drop         []string `json:"drop"` // nodes
}

// startedJSON is the answer of `ranges move`: the move with what it costs.
type startedJSON struct {
	moveJSON
	DryRun        bool     `json:"dry_run"`
	CopyBytes     uint64   `json:"copy_bytes"` // all replicas together
	RateBytes     uint64   `json:"rate_bytes_per_s"`
	DurationMs    int64    `json:"duration_ms"`
	ExpectPauseMs int64    `json:"expected_pause_ms"`
	Nodes         []string `json:"nodes"`
}

func moveOf(m *controlpb.MoveStatus) moveJSON {
	return moveJSON{m.GetMove(), decimal(m.GetRange()), m.GetFrom(), m.GetTo(), m.GetState(), m.GetPercent(), m.GetBytes(), m.GetLagEntries(),
		m.GetPauseMs(), m.GetError(), m.GetBy(), m.GetReason(), jsonTime(m.GetStartedMs()), jsonTime(m.GetSinceMs()),
		jsonTime(m.GetStandbyUntilMs()), list(m.GetAdd()), list(m.GetDrop())}
}

func startedOf(r *controlpb.MoveRangeReply, dry bool) startedJSON {
	e := r.GetEstimate()
	return startedJSON{moveOf(r.GetMove()), dry, e.GetBytes(), e.GetRateBytesPerS(), e.GetDurationMs(), e.GetPauseMs(), list(e.GetNodes())}
}

func moveColumns() []column[moveJSON] {
	return []column[moveJSON]{
		{"MOVE", false, func(m moveJSON) string { return m.Move }},
		{"RANGE", false, func(m moveJSON) string { return m.Range }},
		{"FROM", false, func(m moveJSON) string { return m.From }},
		{"TO", false, func(m moveJSON) string { return m.To }},
		{"STATE", false, func(m moveJSON) string { return m.State }},
		{"COPIED", false, func(m moveJSON) string { return percent(m.Percent / 100) }},
		{"BYTES", false, func(m moveJSON) string { return byteSize(m.Bytes) }},
		{"LAG", true, func(m moveJSON) string { return decimal(m.LagEntries) }},
		{"PAUSE", false, func(m moveJSON) string {
			if m.PauseMs == 0 {
				return ""
			}
			return strconv.FormatFloat(m.PauseMs, 'f', 1, 64) + " ms"
		}},
		{"BY", true, func(m moveJSON) string { return harmless(m.By) }},
		{"REASON", true, func(m moveJSON) string { return m.Reason }},
		{"STARTED", true, func(m moveJSON) string { return m.Started }},
		{"STANDBY UNTIL", true, func(m moveJSON) string { return m.StandbyUntil }},
		{"ERROR", false, func(m moveJSON) string { return m.Error }},
	}
}
