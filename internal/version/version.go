// Package version says what this binary is.
package version

import "runtime/debug"

// commit is set by the linker; see the Makefile.
var commit string

// Commit is the commit this binary was built from, as far as known.
func Commit() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return "unknown"
}
