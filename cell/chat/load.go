package chat

import (
	"time"

	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// load is what the host has seen of its range in the last so many seconds.
func (h *host) load(sessions uint64, seconds int) *cellpb.HostedLoad {
	return &cellpb.HostedLoad{Range: uint64(h.rng), Sessions: sessions, Messages: h.messages.Count(time.Now(), seconds)}
}

// stored counts the messages of a batch that were stored by it.
func stored(batch []*waitingCommand, applied *cellpb.Applied) (n int) {
	for i, c := range batch[:min(len(batch), len(applied.Results))] {
		if r := applied.Results[i]; c.command.GetAppendMessage() != nil && r.Code == 0 && !r.Repeated {
			n++
		}
	}
	return n
}
