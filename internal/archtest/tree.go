package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Problem is one place that breaks a rule.
type Problem struct {
	Rule  string // as in "imports", "doc"
	Place string // file or folder, and the name in it
	Text  string
}

// String names all three.
func (p Problem) String() string { return fmt.Sprintf("%s: %s: %s", p.Place, p.Rule, p.Text) }

// file is one parsed source file.
type file struct {
	path      string // from the root, with slashes
	ast       *ast.File
	lines     int
	test      bool
	generated bool
}

// folder is one package with its tests.
type folder struct {
	path  string // from the root; "." is the root
	files []file
}

// tree is all source below a root.
type tree struct {
	module  string
	fset    *token.FileSet
	folders []folder
}

// readTree parses every Go file of the module at root, except those of
// modules below it.
func readTree(root string) (*tree, error) {
	module, err := moduleOf(root)
	if err != nil {
		return nil, err
	}
	t := &tree{module: module, fset: token.NewFileSet()}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		base := d.Name()
		if name != root {
			if base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return fs.SkipDir
			}
		}
		return t.readFolder(root, name)
	})
	return t, err
}

func moduleOf(root string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("archtest: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(name), nil
		}
	}
	return "", fmt.Errorf("archtest: %s/go.mod names no module", root)
}

func (t *tree) readFolder(root, dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(names) == 0 {
		return err
	}
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return err
	}
	f := folder{path: filepath.ToSlash(rel)}
	for _, name := range names {
		parsed, err := parser.ParseFile(t.fset, name, nil, parser.ParseComments)
		if err != nil {
			return fmt.Errorf("archtest: %w", err)
		}
		f.files = append(f.files, file{
			path: path.Join(f.path, filepath.Base(name)), ast: parsed, lines: t.fset.File(parsed.Pos()).LineCount(),
			test: strings.HasSuffix(name, "_test.go"), generated: ast.IsGenerated(parsed),
		})
	}
	t.folders = append(t.folders, f)
	return nil
}

// imports are the folders of the module that f imports.
func (t *tree) imports(f file) []string {
	var out []string
	for _, spec := range f.ast.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		if rel, ok := strings.CutPrefix(name, t.module+"/"); ok {
			out = append(out, rel)
		}
	}
	slices.Sort(out)
	return out
}
