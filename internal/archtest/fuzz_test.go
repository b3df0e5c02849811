package archtest

import (
	"go/ast"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// corpusFilesMax keeps a corpus small enough that all of it runs in every
// test.
const corpusFilesMax = 40

// Every fuzz target is run by deploy/dev/fuzz.sh and has a corpus.
func TestEveryFuzzTargetIsRun(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs bash")
	}
	root := filepath.Join("..", "..")
	tree, err := readTree(root)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, folder := range tree.folders {
		for _, f := range folder.files {
			if !f.test {
				continue
			}
			for _, d := range f.ast.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") {
					continue
				}
				want = append(want, folder.path+" "+fn.Name.Name)
				corpus := filepath.Join(root, filepath.FromSlash(folder.path), "testdata", "fuzz", fn.Name.Name)
				files, err := os.ReadDir(corpus)
				if err != nil || len(files) == 0 || len(files) > corpusFilesMax {
					t.Errorf("%s: a corpus of 1 to %d files is missing: %d, %v", corpus, corpusFilesMax, len(files), err)
				}
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), "bash", filepath.Join(root, "deploy", "dev", "fuzz.sh"), "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	have := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(want)
	slices.Sort(have)
	if len(want) == 0 || !slices.Equal(want, have) {
		t.Errorf("fuzz.sh runs %q, the targets are %q", have, want)
	}
}
