package replica

import (
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Machine is the state of one range. Only one goroutine at a time calls it.
type Machine interface {
	// Applied is the last committed entry; 0, 0 when the range is new.
	Applied() (index, term uint64)
	// Apply adds the effects of one entry, and its index, to the batch being
	// built. data is empty for Raft's own entries; the answer is nil then.
	Apply(index, term uint64, data []byte) *cellpb.Applied
	// Commit writes the batch being built, without syncing it. After an error
	// the machine is not used any more.
	Commit() error
	// Descriptor is the descriptor as of the last Commit; it is never changed
	// in place. Its replicas are the Raft configuration: it changes only by
	// applying a [cellpb.ChangeReplicas], which the machine may refuse.
	Descriptor() *cellpb.Descriptor
	// State is the range's own record as of the last Commit: of it the running
	// hash, which covers every entry up to Applied, and the rules version count
	// here. It is never changed in place.
	State() *cellpb.RangeState
}

// Machines opens and creates the machines of a node.
type Machines interface {
	// Open reads what is on disk. It is called again after a snapshot has
	// replaced the range's state; the machine opened before is not used then.
	Open(r proto.RangeID) (Machine, error)
	// Create writes the first state of a range, which begins with these rules.
	// It is durable when Create returns. Doing it again changes nothing.
	Create(d *cellpb.Descriptor, incarnation []byte, rules uint32) (Machine, error)
	// Ranges lists the ranges on disk.
	Ranges() ([]proto.RangeID, error)
}

// Observer is told what becomes of replicas. Its methods must not block and
// must not call the Node.
type Observer interface {
	// LeaderChanged tells the leader of a range as this node knows it; leader
	// is empty when none is known, leading is set when it is this node.
	LeaderChanged(r proto.RangeID, term uint64, leader proto.NodeID, leading bool)
	// DescriptorChanged tells the descriptor of a replica here after a change
	// was applied, or a snapshot was installed. d is not to be changed.
	DescriptorChanged(r proto.RangeID, d *cellpb.Descriptor)
	// GrantApplied tells that the range has a host, as of an entry that was
	// applied here. Several may be told as one.
	GrantApplied(r proto.RangeID)
	// ReplicaFailed tells that this node's replica has stopped itself.
	ReplicaFailed(r proto.RangeID, err error)
}

// Config is what a [Node] needs. Self, Log, State, Machines and one of Conn
// and Transport are required; everything else has a default.
type Config struct {
	Self     proto.NodeID
	Cell     proto.CellID // owns what is recovered here
	Log      *pebble.DB   // Raft logs; nobody else writes to it
	State    *pebble.DB   // what the machines write
	Machines Machines
	Observer Observer // may be nil

	// Rules is the newest rules version that Machines apply by; default
	// proto.RulesVersion.
	Rules uint32

	// Conn is the connection to a node; it does not wait.
	Conn func(proto.NodeID) (*grpc.ClientConn, error)
	// Transport replaces the gRPC transport over Conn, for simulation.
	Transport Transport

	// FS and SnapshotDir are where received snapshots wait; the directory
	// must be on State's file system and belongs to the Node. Empty: this
	// node refuses snapshots.
	FS          vfs.FS
	SnapshotDir string

	// Space is asked before proposals are taken; an error refuses them.
	// nil: always enough.
	Space func() error
	// Fatal delivers the error after which a store can no longer write; Run
	// then ends with it. nil: never.
	Fatal <-chan error

	// Gate is told when entries are written; nil: nobody is.
	Gate *giveway.Gate

	Logger     *slog.Logger          // default: slog.Default
	Registerer prometheus.Registerer // may be nil

	Tick          time.Duration // default 50 ms
	ElectionTicks int           // least election timeout, in ticks; the greatest is twice that; default 10
	ApplyWorkers  int           // goroutines that apply; default 2
	// Inline does everything on the caller of [Node.Step] and starts no
	// goroutine but for sending snapshots: for simulation.
	Inline bool
	// SyncWrites is how the log is written where durability is promised;
	// default pebble.Sync. Tests plant the fault "sync off" here.
	SyncWrites *pebble.WriteOptions

	ProposalsMax         int   // pending per range; default 1024
	ProposalBytesMax     int   // pending per range, bytes; default 8 MiB
	EntryBytesMax        int   // one proposal, bytes; default 2 MiB
	ReadsMax             int   // pending per range; default 4096
	InboxMessagesMax     int   // received and not yet stepped; default 16384
	InboxBytesMax        int   // the same, bytes; default 64 MiB
	CacheBytes           int   // recent log entries kept in memory per range; default 256 KiB
	LogKeepBytes         int64 // log kept for a silent follower, per range; default 1 MiB
	LogBytesMax          int64 // log kept for a slow follower, per range; default 1 GiB
	SnapshotBytesSec     int   // sent by this node; default 64 MiB/s
	SnapshotReceivesMax  int   // received at a time; default 4
	QuietTicks           int   // idle ticks before a group rests; default 20
	TruncateTicks        int   // between two cuts of the logs; default 40
	SnapshotRetryTicks   int   // after a failed snapshot; default 20
	PeerSilentTicks      int   // silence after which a node counts as gone; default 10
	PeerHeartbeatTicks   int   // between two heartbeats of a node; default 2
	GroupHeartbeatTicks  int   // between two heartbeats of a group; default 2
	PeerQueueMessagesMax int   // queued towards one node; default 8192
	PeerQueueBytesMax    int   // the same, bytes; default 32 MiB
}

// Validate says what is missing or contradicts itself.
func (c *Config) Validate() error {
	switch {
	case c.Self == "":
		return errors.New("replica: Self is empty")
	case c.Log == nil || c.State == nil:
		return errors.New("replica: Log and State are required")
	case c.Machines == nil:
		return errors.New("replica: Machines is required")
	case c.Conn == nil && c.Transport == nil:
		return errors.New("replica: one of Conn and Transport is required")
	case c.ElectionTicks < 0 || c.ElectionTicks > 0 && c.ElectionTicks <= c.GroupHeartbeatTicks:
		return errors.New("replica: ElectionTicks must exceed GroupHeartbeatTicks")
	}
	return nil
}

func (c Config) withDefaults() Config {
	setDefault(&c.Tick, 50*time.Millisecond)
	setDefault(&c.ElectionTicks, 10)
	setDefault(&c.ApplyWorkers, 2)
	setDefault(&c.ProposalsMax, 1024)
	setDefault(&c.ProposalBytesMax, 8<<20)
	setDefault(&c.EntryBytesMax, 2<<20)
	setDefault(&c.ReadsMax, 4096)
	setDefault(&c.InboxMessagesMax, 16384)
	setDefault(&c.InboxBytesMax, 64<<20)
	setDefault(&c.CacheBytes, 256<<10)
	setDefault(&c.LogKeepBytes, 1<<20)
	setDefault(&c.LogBytesMax, 1<<30)
	setDefault(&c.SnapshotBytesSec, 64<<20)
	setDefault(&c.SnapshotReceivesMax, 4)
	setDefault(&c.QuietTicks, 20)
	setDefault(&c.TruncateTicks, 40)
	setDefault(&c.SnapshotRetryTicks, 20)
	setDefault(&c.PeerSilentTicks, 10)
	setDefault(&c.PeerHeartbeatTicks, 2)
	setDefault(&c.GroupHeartbeatTicks, 2)
	setDefault(&c.PeerQueueMessagesMax, 8192)
	setDefault(&c.PeerQueueBytesMax, 32<<20)
	if c.Rules == 0 {
		c.Rules = proto.RulesVersion
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.SyncWrites == nil {
		c.SyncWrites = pebble.Sync
	}
	if c.Space == nil {
		c.Space = func() error { return nil }
	}
	if c.Observer == nil {
		c.Observer = silent{}
	}
	return c
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

type silent struct{}

func (silent) LeaderChanged(proto.RangeID, uint64, proto.NodeID, bool) {}
func (silent) DescriptorChanged(proto.RangeID, *cellpb.Descriptor)     {}
func (silent) GrantApplied(proto.RangeID)                              {}
func (silent) ReplicaFailed(proto.RangeID, error)                      {}
