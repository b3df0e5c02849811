package client

import "github.com/waggle-im/waggle/proto"

// MessageState is what has become of one of the user's own messages. A
// message without a seq is still in the outbox: it is unsent while its
// [Pending] is not done, and failed when Pending.Result gives an error.
type MessageState int

// The states of a stored message.
const (
	MessageSent      MessageState = iota // stored
	MessageDelivered                     // on a device of the other side
	MessageRead                          // read there
)

// String names the state.
func (s MessageState) String() string {
	switch s {
	case MessageDelivered:
		return "delivered"
	case MessageRead:
		return "read"
	}
	return "sent"
}

// StateOf is the state of the user's own message seq in a direct thread, by
// the other side's marks: Thread.peer_delivered_seq and peer_read_seq at
// first, then the greatest of the marks and of the other side's messages that
// came as updates (whoever writes has read).
func StateOf(seq, peerDelivered, peerRead proto.Seq) MessageState {
	switch {
	case seq <= peerRead:
		return MessageRead
	case seq <= peerDelivered:
		return MessageDelivered
	}
	return MessageSent
}
