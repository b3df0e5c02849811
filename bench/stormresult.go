package bench

// Storm is how people came back after all connections broke at once.
type Storm struct {
	Dropped int `json:"dropped"` // connections, all at once
	Back    int `json:"back"`    // within the time given
	// BackS is when that part of them was logged in again and resumed, in
	// seconds after the drop; nil: never within the time given.
	BackS      BackTimes `json:"back_s"`
	Resyncs    int64     `json:"resyncs"`     // who could not resume, and had to read anew
	Attempts   int64     `json:"attempts"`    // to connect, failed ones included
	SentDuring int64     `json:"sent_during"` // messages due between the drop and the end
	Missed     int       `json:"missed"`      // updates that never came
}

// BackTimes are seconds by the part that is back.
type BackTimes struct {
	P50  *float64 `json:"p50"`
	P90  *float64 `json:"p90"`
	P99  *float64 `json:"p99"`
	P100 *float64 `json:"p100"`
}
