package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/waggle-im/waggle/internal/history"
)

// Verify judges the recorded history of a run again and says so in one line,
// with a line for each finding.
//
// Errors: what cannot be read; a history that breaks a promise.
func Verify(dir string, out io.Writer) error {
	path := filepath.Join(dir, historyFile)
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("bench: verify: %w (only `run` records a history)", err)
	}
	defer f.Close()
	h, err := history.Read(f)
	if err != nil {
		return fmt.Errorf("bench: %s: %w", path, err)
	}
	violations := history.Check(h)
	for _, v := range violations {
		fmt.Fprintln(out, v)
	}
	fmt.Fprintf(out, "%d posted, %d acknowledged, %d failed, %d stored, %d seen: %d findings\n",
		len(h.Posted), len(h.Acked), len(h.Failed), len(h.Stored), len(h.Seen), len(violations))
	switch {
	case len(h.Posted) == 0:
		return fmt.Errorf("bench: %s holds no messages: there is nothing to judge", path)
	case len(violations) == history.ViolationsMax:
		return fmt.Errorf("bench: the history breaks promises: %d findings or more", len(violations))
	case len(violations) > 0:
		return fmt.Errorf("bench: the history breaks promises: %d findings", len(violations))
	}
	return nil
}
