package bench

// Limits is what a limits run found. In the result around it, sent, acked and
// received are of all steps together, and ack_ms of the step at the knee.
type Limits struct {
	Cell        string           `json:"cell"`
	BarMs       float64          `json:"p99_bar_ms"`
	Connections LimitConnections `json:"connections"`
	Steps       []LimitStep      `json:"steps"`

	// KneePerSecond is the highest offered rate of which at least 99 % was
	// acknowledged within the bar; nil where none was found, or where the
	// generator was what ended it.
	KneePerSecond *float64   `json:"knee_per_s"`
	Broke         string     `json:"broke"`             // first, above the knee: a kind of LimitStep.Broke, or the bound
	Detail        string     `json:"detail"`            // of what broke, for people
	Refused       string     `json:"refused,omitempty"` // why no knee is given
	Overload      *LimitStep `json:"overload"`
	// OverloadShare is what was acknowledged at twice the knee, per second, of
	// what was at the knee.
	OverloadShare *float64 `json:"overload_share"`
	Headroom      Headroom `json:"headroom"` // at the knee
}

// LimitConnections is the ramp of idle connections.
type LimitConnections struct {
	Asked     int         `json:"asked"`
	Bound     int         `json:"bound"`                // what was tried
	BoundedBy string      `json:"bounded_by,omitempty"` // why that is less than asked
	Held      int         `json:"held"`
	Broke     string      `json:"broke,omitempty"` // why not more
	Points    []RampPoint `json:"points"`
}

// RampPoint is a level of the ramp, at rest.
type RampPoint struct {
	Connections int     `json:"connections"`
	ServerBytes int64   `json:"server_bytes"` // growth since there were none
	KernelBytes int64   `json:"kernel_bytes"` // the same, both ends
	ConnectS    float64 `json:"connect_s"`    // it took to connect this level
}

// The kinds of what breaks.
const (
	brokeLatency   = "latency"
	brokeCPU       = "CPU"
	brokeMemory    = "memory"
	brokeErrors    = "errors"
	brokeGenerator = "generator"
	brokeUnknown   = "unknown"
	brokeBound     = "the highest rate tried"
)

// LimitStep is some seconds of one rate.
type LimitStep struct {
	Phase      string         `json:"phase"`
	OfferedPS  float64        `json:"offered_per_s"`
	Seconds    float64        `json:"seconds"`
	CutShort   bool           `json:"cut_short,omitempty"` // seconds behind: there was nothing left to learn
	Due        int64          `json:"due"`                 // messages, in the measured time
	InBar      int64          `json:"in_bar"`              // acknowledged within the bar
	Late       int64          `json:"late"`                // acknowledged later
	Unanswered int64          `json:"unanswered"`          // failed, or never sent
	AckedPS    float64        `json:"acked_per_s"`         // in the measured time, whenever due
	AckMs      *Quantiles     `json:"ack_ms"`              // of what was acknowledged
	AcceptedMs *Quantiles     `json:"accepted_ms"`         // the same from the sending that was accepted: without what clients waited after refusals
	LagMs      *Quantiles     `json:"lag_ms"`              // of the generator behind its schedule
	Refusals   map[string]int `json:"refusals"`            // by kind; the client sends these again
	BusyShare  *float64       `json:"busy_share"`          // of the machine's CPUs
	ServerCPUs *float64       `json:"server_cpus"`
	OwnCPUs    *float64       `json:"generator_cpus"`
	OtherCPUs  *float64       `json:"other_cpus"` // other programs, and what the kernel books on nobody
	Passed     bool           `json:"passed"`
	Broke      string         `json:"broke,omitempty"`
}

// Headroom is how much of each resource was in use.
type Headroom struct {
	CPUBusyShare     *float64 `json:"cpu_busy_share"`
	ServerCPUs       *float64 `json:"server_cpus"`
	OwnCPUs          *float64 `json:"generator_cpus"`
	MemoryUsed       int64    `json:"memory_used"` // of the machine, bytes; 0: not known
	MemoryTotal      int64    `json:"memory_total"`
	Descriptors      int64    `json:"descriptors"` // open in the fullest edge process; 0: not known
	DescriptorsLimit int64    `json:"descriptors_limit"`
}
