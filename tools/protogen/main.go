// Command protogen compiles proto/*/*.proto and writes the Go code beside
// them. It needs nothing but Go: the compiler is a library and the three
// generators are tools of this module.
//
// With -check it writes nothing and exits 1 if a committed file differs.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// plugins write the code of a folder.
var plugins = []struct {
	name, parameter string
	folders         []string // nil: all
}{
	{name: "protoc-gen-go"},
	{name: "protoc-gen-go-grpc"},
	// What a message's way is made of is encoded without reflection.
	{"protoc-gen-go-vtproto", ",features=marshal+unmarshal+size", []string{"cell", "client"}},
}

func main() {
	root := flag.String("root", "..", "the repository")
	check := flag.Bool("check", false, "only compare with the committed files")
	flag.Parse()
	folders, err := filepath.Glob(filepath.Join(*root, "proto", "*"))
	if err != nil {
		fail(err)
	}
	differs := false
	for _, folder := range folders {
		sources, _ := filepath.Glob(filepath.Join(folder, "*.proto"))
		if len(sources) == 0 {
			continue
		}
		d, err := generate(*root, sources, *check)
		if err != nil {
			fail(fmt.Errorf("%s: %w", folder, err))
		}
		differs = differs || d
	}
	if differs {
		fail(fmt.Errorf("generated code is out of date: run make proto"))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "protogen:", err)
	os.Exit(1)
}

// generate works on the sources of one folder. Files are named by their path
// from the repository's root, so that their names are unique in any program
// that links them.
func generate(root string, sources []string, check bool) (differs bool, err error) {
	var names []string
	for _, s := range sources {
		name, err := filepath.Rel(root, s)
		if err != nil {
			return false, err
		}
		names = append(names, filepath.ToSlash(name))
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
			ImportPaths: []string{root},
		}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(context.Background(), names...)
	if err != nil {
		return false, err
	}
	req := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: names,
		CompilerVersion: &pluginpb.Version{
			Major: proto.Int32(5), Minor: proto.Int32(29), Patch: proto.Int32(0),
		},
	}
	seen := map[string]bool{}
	for _, f := range files {
		collect(f, seen, &req.ProtoFile)
	}
	for _, p := range plugins {
		if p.folders != nil && !slices.Contains(p.folders, filepath.Base(filepath.Dir(names[0]))) {
			continue
		}
		req.Parameter = proto.String("paths=source_relative" + p.parameter)
		out, err := run(p.name, req)
		if err != nil {
			return false, err
		}
		for _, f := range out.File {
			path := filepath.Join(root, f.GetName())
			if check {
				have, _ := os.ReadFile(path)
				if string(have) != f.GetContent() {
					fmt.Fprintln(os.Stderr, "differs:", path)
					differs = true
				}
				continue
			}
			if err := os.WriteFile(path, []byte(f.GetContent()), 0o644); err != nil {
				return false, err
			}
		}
	}
	return differs, nil
}

// collect appends f after everything it imports.
func collect(f protoreflect.FileDescriptor, seen map[string]bool, into *[]*descriptorpb.FileDescriptorProto) {
	if seen[f.Path()] {
		return
	}
	seen[f.Path()] = true
	imports := f.Imports()
	for i := range imports.Len() {
		collect(imports.Get(i).FileDescriptor, seen, into)
	}
	*into = append(*into, protodesc.ToFileDescriptorProto(f))
}

func run(plugin string, req *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorResponse, error) {
	in, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "tool", plugin)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", plugin, err)
	}
	out := new(pluginpb.CodeGeneratorResponse)
	if err := proto.Unmarshal(raw, out); err != nil {
		return nil, err
	}
	if out.Error != nil {
		return nil, fmt.Errorf("%s: %s", plugin, out.GetError())
	}
	return out, nil
}
