package gateway

import (
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/sharding"
)

// oneCell has one node for the files of every cell, and ranges that it hears of.
type oneCell struct{ routes atomic.Pointer[sharding.Map] }

func (c *oneCell) Routes() *sharding.Map                  { return c.routes.Load() }
func (c *oneCell) FilesAddr(proto.NodeID) (string, bool)  { return "127.0.0.1:1", true }
func (c *oneCell) FilesNodes(proto.CellID) []proto.NodeID { return []proto.NodeID{"c1-n1"} }
func (c *oneCell) open(r proto.RangeID) func() {
	return func() { c.routes.Store(c.routes.Load().With(sharding.Route{Range: r, Cell: "c1", Epoch: 1})) }
}

// Who registered in a range that was opened a moment ago can send files, and his
// files and livestreams are found, at an edge that has not heard of the range.
func TestOwnerInARangeJustOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cell := new(oneCell)
		files := &Files{Directory: cell}
		live := &Live{Files: files}
		time.AfterFunc(cellclient.RouteWait/2, cell.open(1))
		if node, err := files.node(httptest.NewRequest("POST", "/uploads", nil), &cellclient.Caller{User: 4096}); node != "c1-n1" {
			t.Errorf("uploading: %q, %v", node, err)
		}
		time.AfterFunc(cellclient.RouteWait/2, cell.open(2))
		if node, err := files.node(httptest.NewRequest("GET", "/files/8192-1", nil), nil); node != "c1-n1" {
			t.Errorf("downloading: %q, %v", node, err)
		}
		time.AfterFunc(cellclient.RouteWait/2, cell.open(3))
		if node, err := live.NodeOf(t.Context(), proto.LiveID{Owner: 12288, Number: 1}); node != "c1-n1" {
			t.Errorf("watching: %q, %v", node, err)
		}
		if _, err := live.NodeOf(t.Context(), proto.LiveID{Owner: 16384, Number: 1}); proto.CodeOf(err) != proto.CodeUnknownLive {
			t.Errorf("a range that nobody opened: %v", err)
		}
	})
}
