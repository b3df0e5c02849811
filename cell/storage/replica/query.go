package replica

import (
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Descriptor is the descriptor of a replica held here, as far as applied. It
// is not to be changed.
func (n *Node) Descriptor(r proto.RangeID) (*cellpb.Descriptor, bool) {
	g, err := n.group(r)
	if err != nil {
		return nil, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pub.desc, g.pub.desc != nil
}
