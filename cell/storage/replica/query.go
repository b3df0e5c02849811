package replica

import (
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Damaged stops a replica of which somebody has read damaged data: err says
// what. It must not go on answering with the rest, nor send it to others.
func (n *Node) Damaged(r proto.RangeID, err error) {
	n.inbox.call(func() {
		if g, groupErr := n.group(r); groupErr == nil {
			n.fail(g, err)
		}
	})
}

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
