package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/waggle-im/waggle/proto"
)

// Config sizes a node's two stores. The zero value is usable.
type Config struct {
	CacheBytes     int64 // block cache, shared by both stores; default 32 MiB
	MemtableBytes  int   // per store; default 16 MiB
	DiskSpareBytes int64 // below this much free space writes are refused; default 64 MiB, negative: never
}

func (c Config) withDefaults() Config {
	if c.CacheBytes == 0 {
		c.CacheBytes = 32 << 20
	}
	if c.MemtableBytes == 0 {
		c.MemtableBytes = 16 << 20
	}
	if c.DiskSpareBytes == 0 {
		c.DiskSpareBytes = 64 << 20
	}
	return c
}

// Engine is the pair of stores of one node.
type Engine struct {
	Log   *pebble.DB // Raft logs; synced by whoever commits to it
	State *pebble.DB // what ranges are; not synced per batch

	dir    string
	fs     vfs.FS
	cfg    Config
	cache  *pebble.Cache
	fatal  chan error
	damage chan Span
	closed atomic.Bool
}

// The folders of the two stores.
const (
	logStore   = "raftlog"
	stateStore = "state"
)

// damageWaiting bounds the stretches that wait to be read by their owners.
const damageWaiting = 16

// formatKey sorts before every local key: those have at least 16 bytes.
const formatKey = "\x00\x00\x00\x00\x00\x00\x00\x00"

// Open opens or creates the stores below dir.
//
// Errors name the directory and the way out: it is locked by another process,
// its format is newer than this binary, or a file in it is corrupt.
func Open(dir string, fs vfs.FS, cfg Config, logger *slog.Logger) (*Engine, error) {
	cfg = cfg.withDefaults()
	e := &Engine{dir: dir, fs: fs, cfg: cfg, cache: pebble.NewCache(cfg.CacheBytes), fatal: make(chan error, 1), damage: make(chan Span, damageWaiting)}
	if err := makeDir(dir, fs); err != nil {
		return nil, fmt.Errorf("engine: create %s: %w", dir, err)
	}
	err := breakSeal(dir, fs, logger)
	if err == nil {
		e.Log, err = e.open(logStore, logger)
	}
	if err != nil {
		e.cache.Unref()
		return nil, err
	}
	if e.State, err = e.open(stateStore, logger); err != nil {
		_ = e.Log.Close()
		e.cache.Unref()
		return nil, err
	}
	if err := e.checkFormat(); err != nil {
		_ = e.Close()
		return nil, err
	}
	return e, nil
}

// Damage gives the stretches of keys of the state store in which a bad checksum
// was met by a read that nobody waits for, as a compaction's, and by all others.
// Whoever owns the keys must read them to know whether they are among the
// damaged. One that finds no place is met again by the next read.
func (e *Engine) Damage() <-chan Span { return e.damage }

// noteDamage is called under Pebble's locks. end is the last key, or follows it.
func (e *Engine) noteDamage(start, end []byte) {
	select {
	case e.damage <- Span{Start: bytes.Clone(start), End: append(bytes.Clone(end), 0)}:
	default:
	}
}

// makeDir makes dir and the way to it durable: a crash must not take the folder
// from under what was synced in it.
func makeDir(dir string, fs vfs.FS) error {
	var missing []string
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := fs.Stat(at); !oserror.IsNotExist(err) || at == filepath.Dir(at) {
			break
		}
		missing = append(missing, at)
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, made := range missing {
		if err := syncDir(filepath.Dir(made), fs); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) open(name string, logger *slog.Logger) (*pebble.DB, error) {
	dir := filepath.Join(e.dir, name)
	if err := checkManifest(dir, e.fs); err != nil {
		return nil, err
	}
	if err := checkLogs(dir, e.fs); err != nil {
		return nil, err
	}
	pacer := &pacer{memtable: e.cfg.MemtableBytes}
	opts := &pebble.Options{
		FS:                          pacedFS{e.fs, pacer},
		Cache:                       e.cache,
		MemTableSize:                uint64(e.cfg.MemtableBytes),
		MemTableStopWritesThreshold: memtablesStop,
		FormatMajorVersion:          pebble.FormatNewest, // older ones refuse IngestAndExcise
		Logger:                      pebbleLogger{logger: logger.With("store", dir), fatal: e.fatal},
		// A damaged block is an error for whoever reads it, and stops the
		// replicas it concerns. Pebble's default is to stop everything.
		EventListener: &pebble.EventListener{DataCorruption: func(info pebble.DataCorruptionInfo) {
			logger.Error("store is damaged: a read found a bad checksum", "store", dir, "file", info.Path, "err", info.Details)
			if name == stateStore {
				e.noteDamage(info.Bounds.Start, info.Bounds.End.Key)
			}
		}},
		// One compaction at a time leaves the other core to people's
		// messages; two when it falls behind.
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
	}
	for i := range opts.Levels {
		// Client message ids are looked up where they usually are not.
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].FilterType = pebble.TableFilter
	}
	db, err := pebble.Open(dir, opts)
	switch {
	case err == nil:
		pacer.db.Store(db)
		return db, nil
	case isLocked(err):
		return nil, fmt.Errorf("engine: %s is used by another process: stop it or choose another data directory", dir)
	case pebble.IsCorruptionError(err): // errors.Is does not see Pebble's marks
		return nil, corrupt(dir, err)
	}
	return nil, fmt.Errorf("engine: open %s: %w", dir, err)
}

// corrupt says what is damaged and what to do. An older or empty data
// directory under the same node has forgotten what it voted for and
// acknowledged, so that is no way out while other replicas count on it.
func corrupt(path string, err error) error {
	return fmt.Errorf("engine: %s is corrupt: %s: %w", path, WayOut, err)
}

// WayOut is what an operator can do about a damaged store. It follows the name
// of what is damaged.
const WayOut = "with one replica, restore this node's data directory as a whole from a backup (what came after it is lost); " +
	"with three, leave this node stopped: the two others go on, and it must not come back with an older or empty data directory"

// isLocked recognises Pebble's lock errors, which have no type of their own.
func isLocked(err error) bool {
	s := err.Error()
	return strings.Contains(s, "resource temporarily unavailable") || strings.Contains(s, "lock held by current process")
}

// checkFormat refuses a store written by a newer release and marks a new one.
func (e *Engine) checkFormat() error {
	v, closer, err := e.State.Get([]byte(formatKey))
	if errors.Is(err, pebble.ErrNotFound) {
		mark := binary.BigEndian.AppendUint32(nil, proto.StateFormat)
		if err := e.State.Set([]byte(formatKey), mark, pebble.Sync); err != nil {
			return fmt.Errorf("engine: mark the format of %s: %w", e.dir, err)
		}
		return nil
	}
	if pebble.IsCorruptionError(err) {
		return corrupt(filepath.Join(e.dir, "state"), err)
	}
	if err != nil {
		return fmt.Errorf("engine: read the format of %s: %w", e.dir, err)
	}
	defer closer.Close()
	if len(v) != 4 {
		return fmt.Errorf("engine: the format mark of %s is damaged", e.dir)
	}
	if have := binary.BigEndian.Uint32(v); have > proto.StateFormat {
		return fmt.Errorf("engine: %s has state format %d, this binary knows up to %d: run a newer release",
			e.dir, have, proto.StateFormat)
	}
	return nil
}

// Dir is the directory of the stores; FS its file system.
func (e *Engine) Dir() string { return e.dir }

// FS is the file system the stores are on.
func (e *Engine) FS() vfs.FS { return e.fs }

// Fatal delivers the error after which a store can no longer write. The node
// must stop: what it acknowledged is safe, nothing more may be.
func (e *Engine) Fatal() <-chan error { return e.fatal }

// CheckSpace is [proto.CodeDiskFull] while the disk has less free space than
// Config.DiskSpareBytes. Refusing early keeps the stores able to compact.
func (e *Engine) CheckSpace() error {
	if e.cfg.DiskSpareBytes < 0 {
		return nil
	}
	usage, err := e.fs.GetDiskUsage(e.dir)
	if err != nil {
		return nil // in-memory file systems cannot tell
	}
	if usage.AvailBytes < uint64(e.cfg.DiskSpareBytes) {
		return proto.Errorf(proto.CodeDiskFull, "the disk of %s has only %d MiB left: free some space, sending goes on by itself",
			e.dir, usage.AvailBytes>>20)
	}
	return nil
}

// SyncState makes every batch committed to State so far durable.
func (e *Engine) SyncState() error {
	if err := e.State.LogData(nil, pebble.Sync); err != nil {
		return fmt.Errorf("engine: sync %s: %w", e.dir, err)
	}
	return nil
}

// Close syncs, closes and seals both stores.
func (e *Engine) Close() error {
	if e.closed.Swap(true) {
		return nil
	}
	err := e.SyncState()
	err = errors.Join(err, e.Log.Close(), e.State.Close())
	e.cache.Unref()
	if err != nil {
		return err
	}
	return writeSeal(e.dir, e.fs)
}

// pebbleLogger keeps Pebble quiet and turns its fatal errors into a stop of
// the node.
type pebbleLogger struct {
	logger *slog.Logger
	fatal  chan error
}

// Infof implements pebble.Logger; compactions and flushes are not news.
func (l pebbleLogger) Infof(format string, args ...any) {}

// Errorf implements pebble.Logger.
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.logger.Error("pebble", "err", fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger. Pebble calls it when it cannot go on, from
// a goroutine that must not return; it is parked and the node stops.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	l.logger.Error("store can no longer write: the node stops", "err", err)
	select {
	case l.fatal <- err:
	default:
	}
	select {}
}
