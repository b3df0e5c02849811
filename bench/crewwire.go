package bench

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/waggle-im/waggle/client"
)

// crewOrder is what a client process of a load reads as its first line: its
// people, of whom each two are a pair, and its share of the messages.
type crewOrder struct {
	Server    string           `json:"server"`
	Transport client.Transport `json:"transport"`
	CA        []byte           `json:"ca,omitempty"` // PEM
	Accounts  []account        `json:"accounts"`
	Index     int              `json:"index"` // among Of
	Of        int              `json:"of"`
	Rate      float64          `json:"rate"` // messages/s of all processes together
	Window    int              `json:"window"`
	SizeBytes int              `json:"size_bytes"`
	Duration  time.Duration    `json:"duration"`
	WarmUp    time.Duration    `json:"warm_up"`
	History   string           `json:"history"` // file to write at the end
}

// The words of a crewCommand.
const (
	crewRun  = "run"  // the load, from At on
	crewStep = "step" // one rate of a ramp
	crewEnd  = "end"  // wait for what is on its way, and report
)

// crewCommand is a line that follows.
type crewCommand struct {
	Do    string        `json:"do"`
	At    int64         `json:"at"`    // Unix nanoseconds; when sending begins, or of a step: began, with the first
	Begin time.Duration `json:"begin"` // of a step, since At
	Rate  float64       `json:"rate"`  // of a step, of all processes together
	Bar   time.Duration `json:"bar"`
	From  time.Duration `json:"from"` // what is due from then on is measured
	To    time.Duration `json:"to"`
	Cut   bool          `json:"cut"` // far behind, it may be given up
}

// crewReport is the line that answers the order and each command.
type crewReport struct {
	Error string      `json:"error,omitempty"` // why the process ends
	Acked int64       `json:"acked"`           // answers that came in the measured time
	Step  *stepReport `json:"step,omitempty"`
	End   *loadReport `json:"end,omitempty"`
}

// stepReport is what one process saw of a step.
type stepReport struct {
	Ack      []byte         `json:"ack"`
	Lag      []byte         `json:"lag"`
	Accepted []byte         `json:"accepted"`
	Due      int64          `json:"due"`
	InBar    int64          `json:"in_bar"`
	Refusals map[string]int `json:"refusals"`
	Errors   int            `json:"errors"`
	CutShort bool           `json:"cut_short"`
}

// loadReport is what one process saw of the whole load.
type loadReport struct {
	Ack         tallyReport    `json:"ack"`
	Deliver     tallyReport    `json:"deliver"`
	Lag         tallyReport    `json:"lag"`
	Sent        int64          `json:"sent"`
	Acked       int64          `json:"acked"`
	Disconnects int64          `json:"disconnects"`
	Resyncs     int64          `json:"resyncs"`
	Errors      map[string]int `json:"errors"`
	Refusals    map[string]int `json:"refusals"`
	Unsettled   string         `json:"unsettled,omitempty"`
}

// tallyReport is a [tally] on its way between processes.
type tallyReport struct {
	All     []byte   `json:"all"`
	Seconds [][]byte `json:"seconds"`
}

func packHistogram(h *hdrhistogram.Histogram) ([]byte, error) {
	return h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
}

// mergeHistogram adds a packed histogram to one of the same bounds.
func mergeHistogram(into *hdrhistogram.Histogram, packed []byte) error {
	from, err := hdrhistogram.Decode(packed)
	if err != nil {
		return fmt.Errorf("a client process's histogram: %w", err)
	}
	if dropped := into.Merge(from); dropped > 0 {
		return fmt.Errorf("a client process's histogram has %d values out of bounds", dropped)
	}
	return nil
}

// report packs t.
func (t *tally) report() (out tallyReport, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if out.All, err = packHistogram(t.all); err != nil {
		return out, err
	}
	for _, h := range t.seconds {
		packed, err := packHistogram(h)
		if err != nil {
			return out, err
		}
		out.Seconds = append(out.Seconds, packed)
	}
	return out, nil
}

// merge adds what another process's tally of the same start has.
func (t *tally) merge(r tallyReport) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := mergeHistogram(t.all, r.All); err != nil {
		return err
	}
	for i, packed := range r.Seconds {
		if len(t.seconds) <= i {
			t.seconds = append(t.seconds, newHistogram(2))
		}
		if err := mergeHistogram(t.seconds[i], packed); err != nil {
			return err
		}
	}
	return nil
}

// report packs what m saw.
func (m *meter) report() (*stepReport, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ack, err := packHistogram(m.ack)
	if err != nil {
		return nil, err
	}
	lag, err := packHistogram(m.lag)
	if err != nil {
		return nil, err
	}
	accepted, err := packHistogram(m.accepted)
	if err != nil {
		return nil, err
	}
	return &stepReport{Ack: ack, Lag: lag, Accepted: accepted, Due: m.due, InBar: m.inBar, Refusals: m.refusals}, nil
}

// merge adds what another process's meter of the same step saw.
func (m *meter) merge(r *stepReport) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := mergeHistogram(m.ack, r.Ack); err != nil {
		return err
	}
	if err := mergeHistogram(m.lag, r.Lag); err != nil {
		return err
	}
	if err := mergeHistogram(m.accepted, r.Accepted); err != nil {
		return err
	}
	m.due += r.Due
	m.inBar += r.InBar
	for kind, n := range r.Refusals {
		m.refusals[kind] += n
	}
	return nil
}

// report packs what l saw.
func (l *load) report(unsettled error) (*loadReport, error) {
	out := &loadReport{
		Sent: l.sent.Load(), Acked: l.ackedAll.Load(), Disconnects: l.disconnects.Load(), Resyncs: l.resyncs.Load(), Errors: l.errorCounts(), Refusals: l.refusalCounts(),
	}
	if unsettled != nil {
		out.Unsettled = unsettled.Error()
	}
	for _, one := range []struct {
		from *tally
		to   *tallyReport
	}{{l.ack, &out.Ack}, {l.deliver, &out.Deliver}, {l.lag, &out.Lag}} {
		var err error
		if *one.to, err = one.from.report(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// merge adds what a client process saw to a load that has no clients of its
// own.
func (l *load) merge(r *loadReport) error {
	for _, one := range []struct {
		to   *tally
		from tallyReport
	}{{l.ack, r.Ack}, {l.deliver, r.Deliver}, {l.lag, r.Lag}} {
		if err := one.to.merge(one.from); err != nil {
			return err
		}
	}
	l.sent.Add(r.Sent)
	l.ackedAll.Add(r.Acked)
	l.disconnects.Add(r.Disconnects)
	l.resyncs.Add(r.Resyncs)
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind, n := range r.Errors {
		l.errors[kind] += n
	}
	for kind, n := range r.Refusals {
		l.refusals[kind] += n
	}
	return nil
}
