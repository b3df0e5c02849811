package codec_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	pb "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// messages are all types that have generated code.
func messages(t testing.TB) []protoreflect.MessageType {
	var out []protoreflect.MessageType
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		switch mt.Descriptor().ParentFile().Package() {
		case clientpb.File_proto_client_client_proto.Package(), cellpb.File_proto_cell_cell_proto.Package():
			out = append(out, mt)
		}
		return true
	})
	if len(out) < 100 {
		t.Fatalf("only %d types", len(out))
	}
	return out
}

// TestWritesWhatTheLibraryWrites holds that replicas of two releases write the
// same rows, and that what one encodes the other reads.
func TestWritesWhatTheLibraryWrites(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, mt := range messages(t) {
		for range 200 {
			m := mt.New().Interface()
			fill(r, m.ProtoReflect(), 4)
			want, err := pb.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := codec.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, got) {
				t.Fatalf("%s: %v\nthe library writes %x\n              we %x", mt.Descriptor().FullName(), m, want, got)
			}
			if n := codec.Size(m); n != len(want) {
				t.Fatalf("%s: size %d, want %d", mt.Descriptor().FullName(), n, len(want))
			}
			back := mt.New().Interface()
			if err := codec.Unmarshal(want, back); err != nil || !pb.Equal(m, back) {
				t.Fatalf("%s: %v became %v: %v", mt.Descriptor().FullName(), m, back, err)
			}
		}
	}
}

// TestKeepsWhatItDoesNotKnow holds that a field of a newer release survives
// being read and written.
func TestKeepsWhatItDoesNotKnow(t *testing.T) {
	raw := []byte{0xfa, 0x7f, 3, 'n', 'e', 'w'} // field 2047
	for _, mt := range messages(t) {
		m := mt.New().Interface()
		if err := codec.Unmarshal(raw, m); err != nil {
			t.Fatal(err)
		}
		if got, err := codec.Marshal(m); err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%s: %x, %v", mt.Descriptor().FullName(), got, err)
		}
	}
}

// TestReadsWhatTheLibraryReads has bytes that neither writes: fields cut, doubled
// and of other types.
func TestReadsWhatTheLibraryReads(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for _, mt := range messages(t) {
		for range 200 {
			m := mt.New().Interface()
			fill(r, m.ProtoReflect(), 2)
			raw, err := pb.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			for range 1 + r.IntN(3) {
				if len(raw) > 0 {
					raw[r.IntN(len(raw))] ^= 1 << r.IntN(7) // bytes of text stay ASCII
				}
			}
			want, got := mt.New().Interface(), mt.New().Interface()
			if pb.Unmarshal(raw, want) != nil {
				refused++
				continue
			}
			err = codec.Unmarshal(raw, got)
			forget(want.ProtoReflect()) // the library shortens their numbers
			forget(got.ProtoReflect())
			if err != nil || !pb.Equal(want, got) {
				t.Fatalf("%s: %x is %v, not %v: %v", mt.Descriptor().FullName(), raw, want, got, err)
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was refused: the bytes were not spoilt")
	}
}

func TestUnmarshalForgetsWhatWasThere(t *testing.T) {
	m := &clientpb.TextMessage{Text: "before"}
	if err := codec.Unmarshal(nil, m); err != nil || m.Text != "" {
		t.Fatalf("%v, %v", m, err)
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	m := &clientpb.TextMessage{Text: "hello"}
	for _, room := range []int{0, 3, 100} {
		b := append(make([]byte, 0, 4+room), "head"...)
		got, err := codec.Append(b, m)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := pb.Marshal(m)
		if string(got) != "head"+string(want) {
			t.Fatalf("%q", got)
		}
	}
}

// forget drops the fields that are not known.
func forget(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				forget(v.List().Get(i).Message())
			}
		default:
			forget(v.Message())
		}
		return true
	})
}

// fill sets about half of the fields of m.
func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if r.IntN(2) == 0 || f.Message() != nil && depth == 0 {
			continue
		}
		if f.IsMap() {
			panic(fmt.Sprintf("%s is a map: its order is not that of the library", f.FullName()))
		}
		if !f.IsList() {
			m.Set(f, value(r, m.NewField(f), f, depth))
			continue
		}
		list := m.NewField(f).List()
		for range r.IntN(4) {
			var element protoreflect.Value
			if f.Message() != nil {
				element = list.NewElement()
			}
			list.Append(value(r, element, f, depth))
		}
		m.Set(f, protoreflect.ValueOfList(list))
	}
}

// value is one of a field; of a message into what is given.
func value(r *rand.Rand, into protoreflect.Value, f protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	number := r.Uint64() >> r.IntN(64)
	switch f.Kind() {
	case protoreflect.MessageKind:
		fill(r, into.Message(), depth-1)
		return into
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(number%2 == 0)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(r.IntN(values.Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(number))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(number)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(math.Float32frombits(uint32(number) & 0x7f7fffff))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(number))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("é" + string(bytes.Repeat([]byte{'x'}, r.IntN(200))))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(bytes.Repeat([]byte{byte(number)}, r.IntN(200)))
	}
	panic("a kind that is not expected: " + f.Kind().String())
}
