package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// Layer says what the packages at or below At may import of this module. The
// layer with the longest At that fits a package is its own.
type Layer struct {
	At  string
	May []string // folders, with all below them; "*" is everything
}

// CheckImports holds the module at root to its layers, tests included.
func CheckImports(root string, layers []Layer) ([]Problem, error) {
	t, err := readTree(root)
	if err != nil {
		return nil, err
	}
	var out []Problem
	for _, f := range t.folders {
		layer, ok := layerOf(f.path, layers)
		if !ok {
			out = append(out, Problem{"imports", f.path, "is in no layer of the table"})
			continue
		}
		for _, source := range f.files {
			for _, imported := range t.imports(source) {
				if within(imported, f.path) || slices.ContainsFunc(layer.May, func(at string) bool { return at == "*" || within(imported, at) }) {
					continue
				}
				out = append(out, Problem{"imports", source.path, fmt.Sprintf("%s may not import %s", layer.At, imported)})
			}
		}
	}
	return out, nil
}

func layerOf(path string, layers []Layer) (Layer, bool) {
	best, found := Layer{}, false
	for _, l := range layers {
		if within(path, l.At) && (!found || len(l.At) > len(best.At)) {
			best, found = l, true
		}
	}
	return best, found
}

// within tells whether path is at or below at.
func within(path, at string) bool { return path == at || strings.HasPrefix(path, at+"/") }
