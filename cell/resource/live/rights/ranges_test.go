package rights

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

// growing is a town that hears of its ranges.
type growing struct {
	town
	routes atomic.Pointer[sharding.Map]
}

func (g *growing) Routes() *sharding.Map { return g.routes.Load() }

// A livestream of somebody in a range that was opened a moment ago is found by a
// node that has not heard of the range.
func TestOwnerInARangeJustOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := new(growing)
		s := &Service{deps: Deps{Ranges: newRanges(), Directory: dir}}
		req := &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadLive{ReadLive: &cellpb.ReadLive{User: uint64(ann), Number: 1}}}
		time.AfterFunc(cellclient.RouteWait/2, func() { dir.routes.Store(town{}.Routes()) })
		if reply, err := s.ask(t.Context(), ann, req); reply.GetLive() == nil {
			t.Errorf("told %v, %v", reply, err)
		}
		if _, err := s.ask(t.Context(), 1<<40, req); proto.CodeOf(err) != proto.CodeUnknownUser {
			t.Errorf("a range that nobody opened: %v", err)
		}
	})
}
