package rights

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/waggle-im/waggle/cell/resource/live"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/sharding"
)

// Ranges asks ranges, wherever they are hosted: a [cellclient.Relay].
type Ranges interface {
	// Do sends req to the host of rng and waits for the answer.
	Do(ctx context.Context, rng proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error)
}

// Directory knows where livestreams are; it never waits.
type Directory interface {
	// Routes is the route map.
	Routes() *sharding.Map
	// LiveAddrs is where a resource node takes RTSP and RTMP.
	LiveAddrs(proto.NodeID) (rtsp, rtmp string, ok bool)
	// FilesNodes are the resource nodes of a cell that are believed alive.
	FilesNodes(proto.CellID) []proto.NodeID
}

// Files keeps recordings: a [files.Service].
type Files interface {
	// Keep makes a file of user of what lies at path.
	Keep(ctx context.Context, user proto.EntityID, name, path string) (proto.FileID, error)
}

// Config says who this node is.
type Config struct {
	Node proto.NodeID
	Cell proto.CellID
	Dir  string // remembers which livestreams this node carries
}

// Deps are what the rights stand on. Log and End may be nil.
type Deps struct {
	Ranges    Ranges
	Directory Directory
	Files     Files
	// End ends a livestream of this node that has no right to go on; it must not
	// wait.
	End func(id proto.LiveID, reason string)
	Log *slog.Logger
}

// Service implements [live.Rights]. Run brings to its end what could not be
// told at once.
type Service struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	now    func() time.Time
	limits *limits

	mu      sync.Mutex // guards carried
	carried map[proto.LiveID]*carried
	journal sync.Mutex // held while the journal is written
	left    []left     // of an earlier process, read by New
}

var _ live.Rights = (*Service)(nil)

// New reads what an earlier process carried. It starts nothing.
func New(cfg Config, deps Deps) (*Service, error) {
	if cfg.Node == "" || cfg.Cell == "" || cfg.Dir == "" {
		return nil, errors.New("live: the node, its cell or its folder has no name")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("live: %w", err)
	}
	s := &Service{cfg: cfg, deps: deps, log: deps.Log, now: time.Now, limits: newLimits(), carried: map[proto.LiveID]*carried{}}
	var err error
	s.left, err = readJournal(s.journalFile())
	return s, err
}

func (s *Service) journalFile() string { return filepath.Join(s.cfg.Dir, "carried.json") }

// errNoSuch is what a stranger hears of a livestream that exists too.
func errNoSuch(id proto.LiveID) *proto.Error {
	return proto.Errorf(proto.CodeUnknownLive, "there is no livestream %s for you", id)
}

// Publish implements [live.Rights].
//
// Errors: [proto.CodeForbidden] without saying whether id or key is wrong,
// [proto.CodeConflict] while another node that is alive carries it.
func (s *Service) Publish(ctx context.Context, id proto.LiveID, key string) (live.Publication, error) {
	wrong := proto.Errorf(proto.CodeForbidden, "there is no livestream %s with this stream key", id)
	row, err := s.row(ctx, id)
	if proto.CodeOf(err) == proto.CodeUnknownLive {
		return live.Publication{}, wrong
	}
	if err != nil {
		return live.Publication{}, err
	}
	sum := sha256.Sum256([]byte(key))
	if subtle.ConstantTimeCompare(sum[:], row.KeyHash) != 1 {
		return live.Publication{}, wrong
	}
	if node := proto.NodeID(row.Node); isOn(row) && node != s.cfg.Node && s.alive(node, proto.CellID(row.Cell)) {
		return live.Publication{}, proto.Errorf(proto.CodeConflict, "livestream %s is being published at %s: end that first", id, node)
	}
	return live.Publication{Record: row.Record, Title: row.Title}, nil
}

// Watch implements [live.Rights].
func (s *Service) Watch(ctx context.Context, id proto.LiveID, ticket string) (live.Viewer, error) {
	row, err := s.row(ctx, id)
	if err != nil {
		return live.Viewer{}, err
	}
	c, err := s.open(row, id, kindTicket, ticket)
	if err != nil {
		return live.Viewer{}, err
	}
	v := live.Viewer{Live: id, User: c.Login.User, Thread: row.Thread, Login: c.Login}
	return v, s.MayStay(ctx, v)
}

// MayStay implements [live.Rights].
func (s *Service) MayStay(ctx context.Context, v live.Viewer) error {
	if err := s.standing(ctx, v.Login); err != nil {
		return err
	}
	if v.User == v.Live.Owner {
		return nil
	}
	return s.member(ctx, v.Thread, v.User)
}

// Keep implements [live.Rights].
func (s *Service) Keep(ctx context.Context, id proto.LiveID, path string) error {
	row, err := s.row(ctx, id)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("live: recording: %w", err)
	}
	title := row.Title
	if title == "" {
		title = "livestream " + id.String()
	}
	name := fmt.Sprintf("%s %s.mp4", title, info.ModTime().UTC().Format("2006-01-02 15-04-05"))
	file, err := s.deps.Files.Keep(ctx, id.Owner, name, path)
	if err != nil {
		return err
	}
	// Of this recording, however often it is tried: a message that was stored
	// although its answer was lost is not stored again.
	msg := proto.NewClientMsgID(info.ModTime())
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %d", id, filepath.Base(path), info.Size(), info.ModTime().UnixNano()))
	msg[6], msg[7], msg[8] = 0x70|sum[0]&0x0f, sum[1], 0x80|sum[2]&0x3f // what makes it a UUIDv7 stays
	copy(msg[9:], sum[3:])
	_, err = s.ask(ctx, id.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_PostMessage{PostMessage: &cellpb.PostMessage{
		User: uint64(id.Owner), Thread: row.Thread, ClientMsgId: msg[:],
		File: &clientpb.FileMessage{File: file.String(), Kind: clientpb.FileKind_FILE_KIND_VIDEO},
	}}})
	return err
}

func isOn(row *cellpb.StoredLive) bool {
	return row.State == cellpb.LiveState_LIVE_STATE_ON || row.State == cellpb.LiveState_LIVE_STATE_INTERRUPTED
}

// alive tells whether a resource node is believed alive.
func (s *Service) alive(node proto.NodeID, cell proto.CellID) bool {
	for _, n := range s.deps.Directory.FilesNodes(cell) {
		if n == node {
			return true
		}
	}
	return false
}

// callerOf is who a request is of, with a login that still counts.
func (s *Service) callerOf(ctx context.Context, c cellclient.Caller, known bool) (cellclient.Caller, error) {
	if !known {
		return c, proto.Errorf(proto.CodeBadToken, "log in first")
	}
	return c, s.standing(ctx, c)
}
