package live

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waggle-im/waggle/proto"
)

const (
	// unfinished and finished end the names of recordings: ID.TIME.part becomes
	// ID.TIME.mp4 when it is complete.
	unfinished, finished = ".part", ".mp4"
	// keepAgainMin and keepAgainMax are the pauses before a recording that could
	// not be handed over is tried again.
	keepAgainMin, keepAgainMax = 5 * time.Second, 10 * time.Minute
	// keepFor is how long that is tried: its owner's range may be away for days,
	// but nobody may want it any more, too.
	keepFor = 7 * 24 * time.Hour
)

// keeper hands finished recordings over, one after the other. The folder is its
// queue.
type keeper struct {
	s    *Service
	dir  string
	left []string // unfinished ones, of a service before this one
	wake chan struct{}
}

func newKeeper(s *Service) (*keeper, error) {
	k := &keeper{s: s, dir: s.cfg.Dir, wake: make(chan struct{}, 1)}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, fmt.Errorf("live: %w", err)
	}
	var err error
	if k.left, err = filepath.Glob(filepath.Join(k.dir, "*"+unfinished)); err != nil {
		return nil, fmt.Errorf("live: %w", err)
	}
	return k, nil
}

// begin makes a recorder; nil if there is no room for a recording.
func (k *keeper) begin(ls *livestream, tracks []*track) *recorder {
	if used := k.used(); used >= k.s.cfg.RecordingsBytesMax {
		ls.log.Warn("not recorded: the recordings that wait take all room", "bytes", used)
		return nil
	}
	if !slices.ContainsFunc(tracks, func(t *track) bool { return mp4Codec(t) != nil }) {
		ls.log.Warn("not recorded: none of the tracks can be", "tracks", names(tracks))
		return nil
	}
	name := fmt.Sprintf("%s.%d%s", ls.id, time.Now().UnixNano(), unfinished)
	f, err := os.OpenFile(filepath.Join(k.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		ls.log.Warn("not recorded", "err", err)
		return nil
	}
	return newRecorder(ls, k, f, tracks)
}

func (k *keeper) used() int64 {
	total := int64(0)
	entries, _ := os.ReadDir(k.dir) // made by newKeeper; if it is gone there is nothing
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
	}
	return total
}

// finish closes a recording and gives it its final name; one without content is
// removed.
func (k *keeper) finish(f *os.File, content bool) {
	if content {
		if err := f.Sync(); err != nil {
			k.s.log.Warn("recording not synced", "file", f.Name(), "err", err)
		}
	}
	_ = f.Close()
	if err := k.settle(f.Name(), content); err != nil {
		k.s.log.Warn("recording not finished", "file", f.Name(), "err", err)
	}
}

func (k *keeper) settle(path string, content bool) error {
	if !content {
		return os.Remove(path)
	}
	defer func() {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}()
	return os.Rename(path, strings.TrimSuffix(path, unfinished)+finished)
}

// run hands over what is there and what comes, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	for _, path := range k.left {
		content, err := repair(path)
		if err == nil {
			err = k.settle(path, content)
		}
		k.s.log.Info("recording left over by a crash", "file", path, "content", content, "err", err)
	}
	pause := keepAgainMin
	for {
		again := k.handOver(ctx)
		wait := time.NewTimer(pause)
		if !again {
			wait.Stop()
			pause = keepAgainMin
		} else {
			pause = min(2*pause, keepAgainMax)
		}
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-k.wake:
			wait.Stop()
		case <-wait.C:
		}
	}
}

// handOver tries every finished recording; true if one is left.
func (k *keeper) handOver(ctx context.Context) (again bool) {
	paths, err := filepath.Glob(filepath.Join(k.dir, "*"+finished))
	if err != nil {
		return false // only for a bad pattern
	}
	k.s.metrics.recording.Set(float64(len(paths)))
	left := 0
	for _, path := range paths {
		if ctx.Err() != nil {
			return true
		}
		name, _, _ := strings.Cut(filepath.Base(path), ".")
		id, err := proto.ParseLiveID(name)
		if err != nil {
			continue // not one of ours
		}
		if err = k.s.deps.Rights.Keep(ctx, id, path); err != nil {
			info, statErr := os.Stat(path)
			if statErr != nil || time.Since(info.ModTime()) < keepFor {
				k.s.log.Warn("recording not handed over, trying again", "live", name, "err", err)
				left++
				continue
			}
			k.s.log.Error("recording given up after a week", "live", name, "err", err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			k.s.log.Warn("recording not removed", "file", path, "err", err)
			left++
		}
	}
	k.s.metrics.recording.Set(float64(left))
	return left > 0
}

// repair cuts a recording after its last complete fragment. content tells
// whether there is one.
func repair(path string) (content bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	end, content := complete(f, info.Size())
	if end < info.Size() {
		err = f.Truncate(end)
	}
	return content, errors.Join(err, f.Sync())
}

// complete finds the end of the last complete fragment: a box "mdat" with all
// before it. size is that of the file.
func complete(r io.ReaderAt, size int64) (end int64, content bool) {
	var head [8]byte
	for at := int64(0); ; {
		if _, err := r.ReadAt(head[:], at); err != nil {
			return end, content
		}
		length := int64(binary.BigEndian.Uint32(head[:4]))
		if length < 8 || at+length > size { // never written with 64 bits
			return end, content
		}
		at += length
		if string(head[4:]) == "mdat" {
			end, content = at, true
		}
	}
}
