package archtest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// layers is "Imports point down". What starts, tests and loads may import
// everything; the three tiers never import each other.
func layers() []Layer {
	return []Layer{
		{"cmd", []string{"*"}},
		{"bench", []string{"*"}},
		{"deploy", []string{"*"}},
		{"internal/testcluster", []string{"*"}},
		{"internal/devcluster", []string{"*"}},
		{"internal/daemon", []string{"*"}},
		{"controlplane", []string{"controlplane", "client", "sharding", "internal", "proto"}},
		{"cell", []string{"cell", "client", "sharding", "internal", "proto"}},
		{"edge", []string{"edge", "client", "sharding", "internal", "proto"}},
		{"client", []string{"client", "sharding", "internal", "proto"}},
		{"sharding", []string{"sharding", "proto"}},
		{"internal", []string{"internal", "proto"}},
		{"internal/history", []string{"proto"}},
		{"proto", []string{"proto"}},
	}
}

func TestImportsPointDown(t *testing.T) {
	problems, err := CheckImports(root, layers())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// Plumbing below the line must not reach what starts it.
func TestPlumbingDoesNotStartThings(t *testing.T) {
	tree, err := readTree(root)
	if err != nil {
		t.Fatal(err)
	}
	starters := []string{"internal/testcluster", "internal/devcluster", "internal/daemon"}
	for _, f := range tree.folders {
		for _, source := range f.files {
			for _, imported := range tree.imports(source) {
				from := func(at string) bool { return within(f.path, at) }
				if slices.Contains(starters, imported) && !slices.ContainsFunc(append(starters, "cmd", "bench", "deploy", "internal/config"), from) {
					t.Errorf("%s imports %s", source.path, imported)
				}
			}
		}
	}
}

// exceptionsMax is how many exceptions there are. It may only shrink.
const exceptionsMax = 1

// exceptions are "rule place: reason" lines.
func exceptions(t *testing.T) map[string]bool {
	t.Helper()
	raw, err := os.ReadFile("testdata/exceptions.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		what, reason, _ := strings.Cut(line, ": ")
		if strings.TrimSpace(reason) == "" {
			t.Errorf("exception %q has no reason", line)
		}
		out[what] = false
	}
	return out
}

func TestStyle(t *testing.T) {
	problems, err := CheckStyle(root)
	if err != nil {
		t.Fatal(err)
	}
	allowed := exceptions(t)
	if len(allowed) > exceptionsMax {
		t.Errorf("%d exceptions, there were %d: the list may only shrink", len(allowed), exceptionsMax)
	}
	for _, p := range problems {
		what := p.Rule + " " + p.Place
		if _, ok := allowed[what]; ok {
			allowed[what] = true
			continue
		}
		t.Error(p)
	}
	for what, used := range allowed {
		if !used {
			t.Errorf("the exception %q is not needed any more: remove it", what)
		}
	}
}

// The rules themselves: every fault planted in testdata/bad is found, each at
// its place, and nothing else.
func TestPlantedFaultsAreFound(t *testing.T) {
	found, err := CheckStyle("testdata/bad")
	if err != nil {
		t.Fatal(err)
	}
	imports, err := CheckImports("testdata/bad", []Layer{
		{".", nil}, {"low", []string{"low"}}, {"high", []string{"low", "high"}}, {"manager", nil}, {"docs", nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, p := range append(found, imports...) {
		have = append(have, p.Rule+" "+p.Place)
		if p.Text == "" || !strings.Contains(p.String(), p.Place) {
			t.Errorf("%v does not say what is wrong", p)
		}
	}
	slices.Sort(have)
	raw, err := os.ReadFile("testdata/bad/want.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(raw)), "\n")
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// Long files and functions are made here: testdata should not hold them.
func TestLengthsAreCounted(t *testing.T) {
	for _, c := range []struct {
		file, function int
		want           []string
	}{
		{FileLinesMax, FunctionLinesMax, nil},
		{FileLinesMax + 1, FunctionLinesMax, []string{"file a.go"}},
		{FileLinesMax, FunctionLinesMax + 1, []string{"function a.go long"}},
	} {
		dir := t.TempDir()
		source := "// Package a is long.\npackage a\n\nfunc long() {" + strings.Repeat("\n", c.function-1) + "}\n"
		source += strings.Repeat("//\n", c.file-strings.Count(source, "\n"))
		source = strings.TrimSuffix(source, "\n")
		for name, text := range map[string]string{"go.mod": "module m\n", "a.go": source} {
			if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		found, err := CheckStyle(dir)
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, p := range found {
			have = append(have, p.Rule+" "+p.Place)
		}
		if !slices.Equal(have, c.want) {
			t.Errorf("file of %d lines, function of %d: found %v, want %v", c.file, c.function, have, c.want)
		}
	}
}

func TestEveryPackageHasALayer(t *testing.T) {
	found, err := CheckImports("testdata/bad", nil)
	if err != nil || len(found) == 0 {
		t.Errorf("found %v, %v", found, err)
	}
	if _, err := CheckImports("testdata", nil); err == nil {
		t.Error(fmt.Errorf("a folder without go.mod was taken for a module"))
	}
}
