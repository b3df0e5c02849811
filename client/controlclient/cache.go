package controlclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/waggle-im/waggle/internal/atomicfile"
)

// cacheFormat is the version of the copy on disk; another one is not read.
const cacheFormat = 1

// pair is one key of etcd with its value.
type pair struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

type cacheFile struct {
	Format int    `json:"format"`
	Sum    uint64 `json:"sum,string"` // of all keys and values, in order
	Pairs  []pair `json:"pairs"`
	// Of etcd, as last seen: [View.SeenRevision] and [View.SeenReconciled].
	Revision   int64  `json:"revision,string,omitempty"`
	Reconciled uint64 `json:"reconciled,string,omitempty"`
}

func checksum(pairs []pair) uint64 {
	h := xxhash.New()
	for _, p := range pairs {
		_, _ = fmt.Fprintf(h, "%d %d %s", len(p.Key), len(p.Value), p.Key)
		_, _ = h.Write(p.Value)
	}
	return h.Sum64()
}

// saveCache writes the copy on disk, mode 0600, replaced as a whole.
func saveCache(file string, v *View) error {
	pairs, err := v.pairs()
	if err != nil {
		return fmt.Errorf("controlclient: %w", err)
	}
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.Key, b.Key) })
	data, err := json.Marshal(cacheFile{Format: cacheFormat, Sum: checksum(pairs), Pairs: pairs, Revision: v.SeenRevision, Reconciled: v.SeenReconciled})
	if err != nil {
		return fmt.Errorf("controlclient: %w", err)
	}
	return atomicfile.Write(file, data, 0o600)
}

// loadCache reads the copy on disk; a missing file is an empty view.
func loadCache(file string) (*View, error) {
	empty := newDraft(&View{}).finish(0)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("controlclient: %w", err)
	}
	var c cacheFile
	if err := json.Unmarshal(data, &c); err != nil {
		return empty, fmt.Errorf("controlclient: %s is damaged: %w", file, err)
	}
	if c.Format != cacheFormat {
		return empty, fmt.Errorf("controlclient: %s has format %d, this release reads %d", file, c.Format, cacheFormat)
	}
	if c.Sum != checksum(c.Pairs) {
		return empty, fmt.Errorf("controlclient: %s is damaged: wrong checksum", file)
	}
	d := newDraft(&View{})
	for _, p := range c.Pairs {
		if err := d.put(p.Key, p.Value); err != nil {
			return empty, err
		}
	}
	d.SeenRevision, d.SeenReconciled = c.Revision, c.Reconciled
	return d.finish(0), nil
}
