package config

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever stands in a file or in the environment is a configuration that its
// own check takes, or is refused with words.
func FuzzLoad(f *testing.F) {
	f.Add(cellYAML, "WAGGLE_CELL_NAME=c2")
	f.Add("role: edge\n", "WAGGLE_LISTEN=")
	f.Add("cell: [1, 2]\n", "WAGGLE_ETCD_ENDPOINTS=a,,b")
	f.Add("cell.name: x\ncell: {name: y}\n", "WAGGLE_=1")
	f.Add("a: &a [*a]\n", "=")
	f.Fuzz(func(t *testing.T, text, environ string) {
		file := filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Sources{Role: "cell", File: file, Environ: []string{environ}})
		if err == nil {
			err = c.Validate()
			if err != nil {
				t.Errorf("loaded and not valid: %v", err)
			}
		} else if err.Error() == "" {
			t.Error("refused without a word")
		}
		if change, err := Override(file, []string{environ}); err == nil {
			_ = change(&c)
		}
	})
}
