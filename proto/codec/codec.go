// Package codec encodes and decodes Waggle's messages with code generated for
// each of them, where the protobuf library would look fields up by reflection.
//
// Messages on a message's way have such code (folders proto/client and
// proto/cell); others are left to the library. What is written is the same, byte for
// byte (but that a number of -0 is left out as 0 is). Decoding differs in one
// thing: a string that is not UTF-8 is not refused. So what comes from outside is
// decoded by the library first, at the edge, and no command is made of it.
//
// The nodes of cells, and who calls them, give gRPC [GRPC] for its own codec.
package codec

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	pb "google.golang.org/protobuf/proto"

	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// generated is what protoc-gen-go-vtproto writes for a message.
type generated interface {
	Reset()
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// Marshal encodes m.
func Marshal(m pb.Message) ([]byte, error) { return Append(nil, m) }

// Append encodes m behind b.
func Append(b []byte, m pb.Message) ([]byte, error) {
	g, ok := m.(generated)
	if !ok {
		return pb.MarshalOptions{}.MarshalAppend(b, m)
	}
	size := g.SizeVT()
	at := len(b)
	if cap(b)-at < size {
		grown := make([]byte, at, max(at+size, min(2*cap(b), 1<<20)))
		copy(grown, b)
		b = grown
	}
	b = b[:at+size]
	if n, err := g.MarshalToSizedBufferVT(b[at:]); err != nil {
		return nil, err
	} else if n != size {
		return nil, fmt.Errorf("codec: %T was changed while it was encoded", m)
	}
	return b, nil
}

// Size is how many bytes m takes up encoded.
func Size(m pb.Message) int {
	if g, ok := m.(generated); ok {
		return g.SizeVT()
	}
	return pb.Size(m)
}

// Unmarshal decodes b into m, of which nothing is kept, nor of b.
func Unmarshal(b []byte, m pb.Message) error {
	if g, ok := m.(generated); ok {
		g.Reset()
		if g.UnmarshalVT(b) == nil {
			return nil
		}
		// The library takes a known field of an unexpected wire type for an
		// unknown one. What it reads, all releases must.
	}
	return pb.Unmarshal(b, m)
}

// GRPC encodes everything, and decodes the batches of the streams between
// edges, hosts, leaders and replicas; all else the library decodes, which checks
// its strings. What it writes and reads is what gRPC's own codec does.
func GRPC() encoding.CodecV2 { return grpcCodec{} }

type grpcCodec struct{}

func (grpcCodec) Name() string { return "proto" }

func (grpcCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(pb.Message)
	if !ok {
		return nil, fmt.Errorf("codec: %T is not a protobuf message", v)
	}
	size := Size(m)
	if mem.IsBelowBufferPoolingThreshold(size) {
		b, err := Append(make([]byte, 0, size), m)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	b, err := Append((*buf)[:0], m)
	if err != nil {
		pool.Put(buf)
		return nil, err
	}
	*buf = b
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (grpcCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(pb.Message)
	if !ok {
		return fmt.Errorf("codec: %T is not a protobuf message", v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	switch m.(type) {
	case *cellpb.EdgeBatch, *cellpb.HostBatch, *cellpb.RelayBatch, *cellpb.RelayReplyBatch,
		*cellpb.LeadBatch, *cellpb.LeadReplyBatch, *cellpb.RaftBatch, *cellpb.RaftAck:
		return Unmarshal(buf.ReadOnlyData(), m)
	}
	return pb.Unmarshal(buf.ReadOnlyData(), m)
}
