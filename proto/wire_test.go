package proto_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	pb "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const baselineFile = "testdata/baseline.binpb"

// update rewrites the golden files: after an addition, never to silence a
// failure.
var update = flag.Bool("update", false, "rewrite the golden files with what is linked in")

func linkedIn() *descriptorpb.FileDescriptorSet {
	set := new(descriptorpb.FileDescriptorSet)
	for _, f := range []protoreflect.FileDescriptor{
		clientpb.File_proto_client_client_proto, cellpb.File_proto_cell_state_proto, cellpb.File_proto_cell_command_proto,
		cellpb.File_proto_cell_cell_proto, controlpb.File_proto_control_control_proto,
	} {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	return set
}

// What was once said or stored must be understood for ever: messages, fields
// and methods may be added, none removed, renumbered or retyped.
func TestWireIsCompatible(t *testing.T) {
	if *update {
		raw, err := pb.MarshalOptions{Deterministic: true}.Marshal(linkedIn())
		if err == nil {
			err = os.WriteFile(baselineFile, raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(baselineFile)
	if err != nil {
		t.Fatal(err)
	}
	baseline := new(descriptorpb.FileDescriptorSet)
	if err := pb.Unmarshal(raw, baseline); err != nil {
		t.Fatal(err)
	}
	if len(baseline.File) < 5 {
		t.Fatalf("the baseline has %d files", len(baseline.File))
	}
	for _, v := range broken(baseline, linkedIn()) {
		t.Error(v)
	}
}

// broken lists what old has and current has not, or otherwise.
func broken(old, current *descriptorpb.FileDescriptorSet) []string {
	have := map[string]string{}
	for _, f := range current.File {
		facts(f, func(name, fact string) { have[name] = fact })
	}
	var out []string
	for _, f := range old.File {
		facts(f, func(name, fact string) {
			switch now, ok := have[name]; {
			case !ok:
				out = append(out, fmt.Sprintf("%s (%s) was removed or renumbered", name, fact))
			case now != fact:
				out = append(out, fmt.Sprintf("%s was %s and is %s", name, fact, now))
			}
		})
	}
	return out
}

// facts names everything in f that others rely on, with what it is. A field
// goes by its number.
func facts(f *descriptorpb.FileDescriptorProto, visit func(name, fact string)) {
	visit("file "+f.GetName(), "package "+f.GetPackage())
	prefix := f.GetPackage() + "."
	for _, m := range f.MessageType {
		messageFacts(prefix, m, visit)
	}
	for _, e := range f.EnumType {
		enumFacts(prefix, e, visit)
	}
	for _, s := range f.Service {
		for _, m := range s.Method {
			visit(fmt.Sprintf("method %s%s/%s", prefix, s.GetName(), m.GetName()),
				fmt.Sprintf("%s → %s, streaming %v → %v", m.GetInputType(), m.GetOutputType(), m.GetClientStreaming(), m.GetServerStreaming()))
		}
	}
}

func messageFacts(prefix string, m *descriptorpb.DescriptorProto, visit func(name, fact string)) {
	name := prefix + m.GetName()
	visit("message "+name, "a message")
	for _, f := range m.Field {
		oneof := ""
		if f.OneofIndex != nil {
			oneof = " of " + m.OneofDecl[f.GetOneofIndex()].GetName()
		}
		visit(fmt.Sprintf("field %s %d", name, f.GetNumber()), strings.Join([]string{
			f.GetName(), f.GetLabel().String(), f.GetType().String(), f.GetTypeName(), f.GetOptions().String(),
		}, " ")+oneof)
	}
	for _, nested := range m.NestedType {
		messageFacts(name+".", nested, visit)
	}
	for _, e := range m.EnumType {
		enumFacts(name+".", e, visit)
	}
}

func enumFacts(prefix string, e *descriptorpb.EnumDescriptorProto, visit func(name, fact string)) {
	for _, v := range e.Value {
		visit(fmt.Sprintf("value %s%s %d", prefix, e.GetName(), v.GetNumber()), v.GetName())
	}
}

// The comparison itself: what breaks old peers is seen, an addition is not.
func TestWireViolationsAreSeen(t *testing.T) {
	message := func(set *descriptorpb.FileDescriptorSet, name string) *descriptorpb.DescriptorProto {
		for _, f := range set.File {
			for _, m := range f.MessageType {
				if m.GetName() == name {
					return m
				}
			}
		}
		t.Fatalf("there is no message %s", name)
		return nil
	}
	for name, plant := range map[string]func(set *descriptorpb.FileDescriptorSet){
		"field removed": func(set *descriptorpb.FileDescriptorSet) {
			m := message(set, "Hello")
			m.Field = m.Field[1:]
		},
		"field renumbered": func(set *descriptorpb.FileDescriptorSet) { message(set, "Event").Field[1].Number = pb.Int32(99) },
		"numbers swapped": func(set *descriptorpb.FileDescriptorSet) {
			f := message(set, "Hello").Field
			f[1].Number, f[2].Number = f[2].Number, f[1].Number
		},
		"field retyped": func(set *descriptorpb.FileDescriptorSet) {
			message(set, "StoredEvent").Field[0].Type = descriptorpb.FieldDescriptorProto_TYPE_SINT64.Enum()
		},
		"field repeated": func(set *descriptorpb.FileDescriptorSet) {
			message(set, "SendMessage").Field[0].Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		},
		"field moved into a oneof": func(set *descriptorpb.FileDescriptorSet) {
			message(set, "ClientFrame").Field[0].OneofIndex = pb.Int32(0)
		},
		"field of another message": func(set *descriptorpb.FileDescriptorSet) {
			message(set, "ClientFrame").Field[1].TypeName = pb.String(".waggle.client.v1.Logout")
		},
		"message removed": func(set *descriptorpb.FileDescriptorSet) { set.File[0].MessageType = set.File[0].MessageType[1:] },
		"method no longer streams": func(set *descriptorpb.FileDescriptorSet) {
			set.File[3].Service[0].Method[0].ServerStreaming = pb.Bool(false)
		},
		"service removed": func(set *descriptorpb.FileDescriptorSet) { set.File[3].Service = set.File[3].Service[1:] },
		"file removed":    func(set *descriptorpb.FileDescriptorSet) { set.File = set.File[1:] },
	} {
		changed := linkedIn()
		plant(changed)
		if len(broken(linkedIn(), changed)) == 0 {
			t.Errorf("%s: not seen", name)
		}
	}
	grown := linkedIn()
	m := message(grown, "Hello")
	m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{Name: pb.String("new"), Number: pb.Int32(99)})
	grown.File[0].MessageType = append(grown.File[0].MessageType, &descriptorpb.DescriptorProto{Name: pb.String("New")})
	if v := broken(linkedIn(), grown); v != nil {
		t.Errorf("an addition is refused: %v", v)
	}
}
