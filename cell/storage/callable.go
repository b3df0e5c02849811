package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// callEvery is how often a chat node that is linked here is called back, and
	// callTimeout how long it has to answer.
	callEvery   = 250 * time.Millisecond
	callTimeout = 300 * time.Millisecond
	// callsFailed in a row, about 1 s, take a chat node out of hosting. One
	// or two may be a machine that is busy.
	callsFailed = 3
)

// A chat node dials its leaders, so its link stands even where nobody can dial
// the chat node: not the edges, not the hosts of other ranges. Such a node
// must not be granted anything, or its ranges are silent until the network is
// mended. So who is linked is called back, over a connection of its own, as
// edges would.

// untilCallable waits until node answers a call.
func (s *Service) untilCallable(ctx context.Context, node proto.NodeID) error {
	for s.call(ctx, node) != nil {
		select {
		case <-time.After(callEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// watchCallable returns when node has not answered for long, or with ctx.
func (s *Service) watchCallable(ctx context.Context, node proto.NodeID) error {
	tick := time.NewTicker(callEvery)
	defer tick.Stop()
	for failed := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		err := s.call(ctx, node)
		if err == nil {
			failed = 0
			continue
		}
		if failed++; failed >= callsFailed && ctx.Err() == nil {
			return fmt.Errorf("storage: chat node %s has a link to here and cannot be called back: %w", node, err)
		}
	}
}

func (s *Service) call(ctx context.Context, node proto.NodeID) error {
	conn, err := s.cfg.Conn(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = cellpb.NewNodeClient(conn).WhoHosts(ctx, &cellpb.WhoHostsRequest{})
	return err
}
