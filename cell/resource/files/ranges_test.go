package files

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

// growing hears of ranges, all of which answer.
type growing struct {
	cellclient.FilesDirectory
	routes atomic.Pointer[sharding.Map]
}

func (g *growing) Routes() *sharding.Map { return g.routes.Load() }

func (g *growing) Do(context.Context, proto.RangeID, *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	return &cellpb.RelayReply{}, nil
}

// A file of somebody in a range that was opened a moment ago is asked for by a
// node that has not heard of the range.
func TestOwnerInARangeJustOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cell := new(growing)
		s := &Service{deps: Deps{Ranges: cell, Directory: cell}}
		time.AfterFunc(cellclient.RouteWait/2, func() {
			cell.routes.Store(sharding.New([]sharding.Route{{Range: 1, Cell: "c1", Epoch: 1}}))
		})
		if reply, err := s.ask(t.Context(), 4096, &cellpb.RelayRequest{}); reply == nil {
			t.Errorf("asking: %v", err)
		}
		if _, err := s.ask(t.Context(), 8192, &cellpb.RelayRequest{}); proto.CodeOf(err) != proto.CodeUnknownFile {
			t.Errorf("a range that nobody opened: %v", err)
		}
	})
}
