package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/accounts"
	"github.com/waggle-im/waggle/controlplane/canary"
	"github.com/waggle-im/waggle/controlplane/login"
	"github.com/waggle-im/waggle/controlplane/topology"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// Cluster is what the service needs of controlclient.Client.
type Cluster interface {
	View() *controlclient.View
	Changed() <-chan struct{}
	Etcd() *clientv3.Client
	Synced() bool
}

// ModeEmbedded is the mode of a cluster whose nodes somebody starts and stops
// for it.
const ModeEmbedded = "embedded"

// Config is what a [Service] works with.
type Config struct {
	Name     string // of the cluster, for status
	Mode     string // ModeEmbedded or "production"
	Version  string // of this binary, for status
	Replicas uint32 // voters per range of cells added from now on: 1 or 3

	Cluster   Cluster
	Dialer    Dialer
	Store     *accounts.Store
	Registrar *accounts.Registrar
	Issuer    *login.Issuer
	Ranges    login.Ranges
	// CellAdded, if set, is called after a cell is registered, such as to
	// start its nodes in an embedded cluster.
	CellAdded func(ctx context.Context, cell proto.CellID) error
	Logger    *slog.Logger
}

// Service is the controlpb.Operator service. Its errors are gRPC statuses that
// carry codes of the registry (controlclient.FromStatus reads them).
type Service struct {
	controlpb.UnimplementedOperatorServer
	Config
}

// New makes the service. It starts nothing.
func New(c Config) *Service { return &Service{Config: c} }

// Status is the whole cluster on one screen.
func (s *Service) Status(ctx context.Context, _ *controlpb.StatusRequest) (*controlpb.StatusReply, error) {
	v := s.Cluster.View()
	rs := s.ask(ctx, v)
	reply := &controlpb.StatusReply{
		Mode: s.Mode, Cluster: s.Name, Version: s.Version,
		Cells: cellStatuses(v, rs), Nodes: nodeStatuses(v, rs), Edges: edgeStatuses(v),
		Ranges: uint64(len(v.Ranges)), RangesWithoutLeader: leaderless(v, rs), Problems: problems(v, rs),
		Moves: s.moveStatuses(ctx, v, func(rec *controlpb.MoveRecord) bool { return !move.Phase(rec.State).Over() }),
	}
	reply.Canary = s.lastCanary(ctx)
	if reply.Canary.GetError() != "" {
		reply.Problems = append(reply.Problems, fmt.Sprintf("the canary, range %d, met something wrong when it was moved: %s", reply.Canary.Range, reply.Canary.Error))
	}
	if !s.Cluster.Synced() {
		reply.Problems = append(reply.Problems, "etcd does not answer: this is the last state known, from disk")
	}
	pingCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := s.Store.Ping(pingCtx); err != nil {
		reply.Problems = append(reply.Problems, "the accounts database does not answer: nobody can register or log in")
	}
	return reply, nil
}

// lastCanary is what was noted of the last move for trying; nil if there was
// none, or etcd cannot be asked just now.
func (s *Service) lastCanary(ctx context.Context) *controlpb.CanaryRecord {
	if !s.Cluster.Synced() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	rec, err := canary.Read(ctx, s.Cluster.Etcd())
	if err != nil {
		s.Logger.Debug("nothing is known of the canary", "err", err)
	}
	return rec
}

// ListCells lists the cells by name.
func (s *Service) ListCells(ctx context.Context, _ *controlpb.ListCellsRequest) (*controlpb.ListCellsReply, error) {
	v := s.Cluster.View()
	return &controlpb.ListCellsReply{Cells: cellStatuses(v, s.ask(ctx, v))}, nil
}

// AddCell registers a cell. Repeating it changes nothing.
func (s *Service) AddCell(ctx context.Context, req *controlpb.AddCellRequest) (*controlpb.AddCellReply, error) {
	cell := proto.CellID(req.Cell)
	err := topology.AddCell(ctx, s.Cluster.Etcd(), cell, max(1, s.Replicas))
	if req.By != "" {
		s.audit(ctx, req.By, "cells add", req.Cell, err)
	}
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	if s.CellAdded != nil {
		if err := s.CellAdded(ctx, cell); err != nil {
			return nil, controlclient.ToStatus(proto.Errorf(proto.CodeUnavailable, "cell %s is registered, but its nodes did not start: %v", cell, err))
		}
	}
	for {
		changed := s.Cluster.Changed()
		v := s.Cluster.View()
		for _, st := range cellStatuses(v, nil) {
			if st.Cell == req.Cell {
				return &controlpb.AddCellReply{Cell: st}, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, controlclient.ToStatus(proto.Errorf(proto.CodeUnavailable, "cell %s is registered, but not seen yet: see `waggle cells ls`", cell))
		}
	}
}

// ListNodes lists the nodes by name, edges and control planes too.
func (s *Service) ListNodes(ctx context.Context, _ *controlpb.ListNodesRequest) (*controlpb.ListNodesReply, error) {
	v := s.Cluster.View()
	return &controlpb.ListNodesReply{Nodes: nodeStatuses(v, s.ask(ctx, v))}, nil
}

// ListEdges lists the edges by name.
func (s *Service) ListEdges(context.Context, *controlpb.ListEdgesRequest) (*controlpb.ListEdgesReply, error) {
	return &controlpb.ListEdgesReply{Edges: edgeStatuses(s.Cluster.View())}, nil
}

// ListRanges lists the ranges by id.
func (s *Service) ListRanges(ctx context.Context, _ *controlpb.ListRangesRequest) (*controlpb.ListRangesReply, error) {
	v := s.Cluster.View()
	return &controlpb.ListRangesReply{Ranges: rangeStatuses(v, s.ask(ctx, v))}, nil
}

// ShowUser finds a user by name or id and says where it lives and where its
// sessions are. A part that cannot be had in time is left out.
func (s *Service) ShowUser(ctx context.Context, req *controlpb.ShowUserRequest) (*controlpb.ShowUserReply, error) {
	a, err := s.account(ctx, req.User)
	if errors.Is(err, accounts.ErrNotFound) {
		err = proto.Errorf(proto.CodeUnknownUser, "there is no user %.40q", req.User)
	}
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	reply := &controlpb.ShowUserReply{
		User: uint64(a.User), Name: a.Name, Email: a.Email, State: string(a.State),
		Range: uint64(a.Range), Start: uint64(a.Range.First()), End: uint64(a.Range.Last()),
	}
	v := s.Cluster.View()
	if rec := v.Ranges[a.Range]; rec != nil {
		st := rangeStatus(rec, s.ask(ctx, v).ranges()[a.Range])
		reply.Cell, reply.Epoch, reply.Host = st.Cell, st.Epoch, st.Host
	}
	if a.State == accounts.StateActive {
		s.addSessions(ctx, a.User, reply)
		s.addDevices(ctx, a.User, reply)
	}
	return reply, nil
}

func (s *Service) account(ctx context.Context, nameOrID string) (*accounts.Account, error) {
	if id, err := proto.ParseEntityID(nameOrID); err == nil {
		return s.Store.ByUser(ctx, id)
	}
	name, err := accounts.CanonicalName(nameOrID)
	if err != nil {
		return nil, err
	}
	return s.Store.ByName(ctx, name)
}

func (s *Service) addSessions(ctx context.Context, user proto.EntityID, reply *controlpb.ShowUserReply) {
	if reply.Host == "" {
		return
	}
	conn, err := s.Dialer.Conn(proto.NodeID(reply.Host))
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got, err := cellpb.NewNodeClient(conn).Sessions(ctx, &cellpb.SessionsRequest{User: uint64(user)})
	if err != nil {
		s.Logger.Debug("no sessions from the host", "user", user, "err", err)
		return
	}
	for _, info := range got.Infos {
		if info.User == uint64(user) {
			reply.Sessions = append(reply.Sessions, &controlpb.UserSession{
				Device: info.Device, Edge: info.Edge, Transport: info.Transport, SinceMs: info.SinceMs,
			})
		}
	}
}

func (s *Service) addDevices(ctx context.Context, user proto.EntityID, reply *controlpb.ShowUserReply) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got, err := s.Ranges.Do(ctx, user.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadUser{ReadUser: &cellpb.ReadUser{User: uint64(user)}}})
	if err != nil {
		s.Logger.Debug("no devices from the range", "user", user, "err", err)
		return
	}
	for _, d := range got.GetUser().GetDevices() {
		reply.Devices = append(reply.Devices, &controlpb.UserDevice{
			Device: d.Device, Platform: d.GetRow().GetPlatform(), LoginMs: d.GetRow().GetLoginMs(),
			ConfirmedPts: d.GetRow().GetConfirmedPts(), Ended: d.GetRow().GetEnded(),
		})
	}
}

// retryLater repeats do while it is refused with "retry later", until it has
// taken the given time.
func retryLater(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := do(ctx)
		code := proto.CodeOf(err)
		if err == nil || code.Class() != proto.ClassRetryLater || ctx.Err() != nil {
			return err
		}
		wait := time.NewTimer(max(50*time.Millisecond, proto.AsError(err).Retry))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("%w", err)
		}
	}
}
