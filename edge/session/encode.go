package session

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// encode is f on the wire. Our own frames always encode; one that does not is
// a bug.
func encode(f *clientpb.ServerFrame) []byte {
	b, err := codec.Marshal(f)
	if err != nil {
		panic("session: encoding a frame: " + err.Error())
	}
	return b
}

// encodeError refuses request id, or with 0 the connection.
func encodeError(id uint64, e *proto.Error) []byte {
	return encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_Error{Error: &clientpb.Error{
		Code: uint32(e.Code), Message: e.Error(), RetryMs: e.RetryMillis()}}})
}

const (
	frameIDField    = 1 // ServerFrame.id
	frameErrorField = 4 // ServerFrame.error
	errorCodeField  = 1 // Error.code
)

// peekResponse reads the id of an encoded ServerFrame and, if it is an error,
// its code, without decoding the rest. What is malformed has id 0.
func peekResponse(frame []byte) (id uint64, code proto.Code) {
	for len(frame) > 0 {
		field, kind, n := protowire.ConsumeTag(frame)
		if n < 0 {
			return 0, 0
		}
		frame = frame[n:]
		switch {
		case field == frameIDField && kind == protowire.VarintType:
			id, n = protowire.ConsumeVarint(frame)
		case field == frameErrorField && kind == protowire.BytesType:
			var body []byte
			body, n = protowire.ConsumeBytes(frame)
			code = peekCode(body)
		default:
			n = protowire.ConsumeFieldValue(field, kind, frame)
		}
		if n < 0 {
			return 0, 0
		}
		frame = frame[n:]
	}
	return id, code
}

func peekCode(b []byte) proto.Code {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		b = b[n:]
		if field == errorCodeField && kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			return proto.Code(v)
		}
		if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
			return 0
		}
		b = b[n:]
	}
	return 0
}
