package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/internal/disk"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// Errors of a Store. They wrap the path and the cause.
var (
	ErrDamaged = reason.Sentinel(reason.DamagedLog, "damaged Raft data")
	ErrBroken  = errors.New("the Raft log cannot be written until this host is restarted")
	ErrClosed  = errors.New("the Raft node is closed")
	// ErrOvertaken is a cause of ErrBroken that a restart mends.
	ErrOvertaken = errors.New("a snapshot of the leader has replaced entries that Raft still counts")
)

// MaxBatch is the most entries that one StoreLogs may have.
const MaxBatch = 64

// segmentSize is where a new segment begins. Whole segments go when a snapshot has made them superfluous, so it bounds
// what the log wastes; a thousand commands fit well.
const segmentSize = 4 << 20

// maxSegment bounds what is read of one file at Open: a segment is full at segmentSize, and what is written in one
// go on top of that is a batch.
const maxSegment = segmentSize + MaxBatch*(maxBody+recordHeader)

// Store is a Raft log on disk: raft.LogStore. Its methods may be called from several goroutines at once.
//
// The stores of others, raft-wal v0.4.1 and raft-boltdb v2.3.0, work with hashicorp/raft v1.8.0 as well. But they open
// a log that was cut short or damaged with fewer entries or with wrong ones and say nothing, or they end the process:
// docs/decisions/raft-log.md has what was measured.
//
// What StoreLogs acknowledged survives the loss of power. Every entry has a checksum that is verified at Open and at
// every read. After a crash the last, never acknowledged, entries may be torn; they are cut off. So that damage to
// acknowledged ones cannot pass for that, the file "mark" says how far the log was durable. It is written after the
// log was synced and not synced itself: after a loss of power it may say too little, never too much.
type Store struct {
	fs     disk.FS
	dir    string
	full   int64 // bytes after which a new segment begins
	logger hclog.Logger

	commit atomic.Uint64 // an index known to be committed, for the mark

	mu       sync.RWMutex
	segments []*segment // ascending, without gaps
	first    uint64     // 0 if the log is empty
	mark     disk.File
	broken   error       // set when a write failed: what is on disk is unknown until the next Open
	failed   func(error) // told of broken, with the lock held
	// shortened says that a suffix was deleted and nothing appended since. hashicorp/raft (v1.8.0, appendEntries) believes
	// that the suffix is still there if the append fails, and then refuses every further entry for ever: only a restart
	// tells it how far the log is.
	shortened bool
	// installed says that hashicorp/raft is about to delete the whole log, as a snapshot of the leader stands in its
	// place; behind tells the index and term of the snapshot's last entry then.
	installed bool
	behind    func() (index, term uint64)
}

// Damaged makes an error of ErrDamaged that says what to do.
func Damaged(path, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s; if other hosts of the cluster are up, remove this host from it at one of them, "+
		"delete its Raft directory and join again; else restore the directory from a backup",
		ErrDamaged, path, fmt.Sprintf(format, args...))
}

// Open opens the log in dir or begins one. ErrDamaged names the file and says what to do.
func Open(f disk.FS, dir string, logger hclog.Logger) (_ *Store, err error) {
	l := &Store{fs: f, dir: dir, full: segmentSize, logger: logger, failed: func(error) {}}
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open Raft log: %w", err)
	}
	defer func() {
		if err != nil {
			l.closeFiles()
		}
	}()
	durable, err := l.openMark()
	if err != nil {
		return nil, fmt.Errorf("open Raft log: %w", err)
	}
	firsts, err := l.list()
	if err != nil {
		return nil, err
	}
	for i, first := range firsts {
		if err := l.openSegment(first, i == len(firsts)-1, durable); err != nil {
			return nil, err
		}
	}
	if len(l.segments) > 0 {
		l.first = l.segments[0].first
	}
	if last := l.last(); last < durable {
		return nil, Damaged(dir, "the log ends at entry %d but had %d", last, durable)
	}
	return l, nil
}

// list returns the first indexes of the segments in dir, ascending.
func (l *Store) list() ([]uint64, error) {
	entries, err := l.fs.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("open Raft log: %w", err)
	}
	var firsts []uint64
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".log") {
			continue
		}
		var first uint64
		if _, err := fmt.Sscanf(e.Name(), "%020d.log", &first); err != nil || segmentPath("", first) != e.Name() || first == 0 {
			return nil, Damaged(filepath.Join(l.dir, e.Name()), "not the name of a log segment")
		}
		firsts = append(firsts, first)
	}
	slices.Sort(firsts)
	return firsts, nil
}

// openSegment reads a segment and appends it to the list. Of the final one, a torn end is cut off, if it lies behind
// what was durable.
func (l *Store) openSegment(first uint64, final bool, durable uint64) error {
	path := segmentPath(l.dir, first)
	if n := len(l.segments); n > 0 && l.segments[n-1].last()+1 != first {
		return Damaged(path, "begins at entry %d, the one before ends at %d", first, l.segments[n-1].last())
	}
	p, err := disk.ReadFile(l.fs, path, maxSegment)
	if err != nil {
		return fmt.Errorf("open Raft log: %w", err)
	}
	offsets, end, torn := scanSegment(p, first)
	s := &segment{path: path, first: first, offsets: offsets, end: end}
	if whole := torn == nil && len(offsets) > 0; !whole && (!final || s.last() < durable) {
		return Damaged(path, "entry %d at byte %d is missing or does not match its checksum", s.last()+1, end)
	}
	if len(offsets) == 0 { // a segment is begun with its first batch: nothing in it was acknowledged
		return l.remove(path)
	}
	if s.file, err = l.fs.OpenFile(path, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("open Raft log: %w", err)
	}
	l.segments = append(l.segments, s)
	if torn != nil {
		l.logger.Warn("cutting off what a crash left unfinished", "file", path, "at", end, "bytes", int64(len(p))-end)
		return l.cut(s, len(offsets))
	}
	return nil
}

// The mark is u64 last durable index | u64 committed index | u32 CRC-32C of the 16 bytes before.
const markSize = 20

// openMark opens the mark and returns what it says; nothing if a loss of power spoiled it.
func (l *Store) openMark() (durable uint64, err error) {
	path := filepath.Join(l.dir, "mark")
	_, statErr := l.fs.Stat(path)
	if l.mark, err = l.fs.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return 0, err
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		return 0, l.fs.SyncDir(l.dir)
	}
	var p [markSize + 1]byte
	n, err := l.mark.ReadAt(p[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if n != markSize || crc32.Checksum(p[:16], castagnoli) != binary.LittleEndian.Uint32(p[16:]) {
		l.logger.Warn("cannot read how far the Raft log was durable", "file", path)
		return 0, nil
	}
	l.commit.Store(binary.LittleEndian.Uint64(p[8:]))
	return binary.LittleEndian.Uint64(p[:]), nil
}

// putMark writes the mark; the caller holds the lock.
func (l *Store) putMark(durable uint64) error {
	p := binary.LittleEndian.AppendUint64(nil, durable)
	p = binary.LittleEndian.AppendUint64(p, min(l.commit.Load(), durable))
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
	_, err := l.mark.WriteAt(p, 0)
	return err
}

// last is the index of the last entry, 0 if there is none; the caller holds the lock.
func (l *Store) last() uint64 {
	if len(l.segments) == 0 {
		return 0
	}
	return l.segments[len(l.segments)-1].last()
}

// Bounds returns the indexes of the first and the last entry, 0 and 0 if there is none.
func (l *Store) Bounds() (first, last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, l.last()
}

// KnownCommit returns the highest index that Committed was told, also before the last Open. Entries beyond it may be
// committed too.
func (l *Store) KnownCommit() uint64 { return l.commit.Load() }

// SetSegmentSize sets after how many bytes, at most 4 MiB, a new segment begins.
func (l *Store) SetSegmentSize(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = min(bytes, segmentSize)
}

// OnBroken has failed called when the log cannot be written any more. It must not use the log.
func (l *Store) OnBroken(failed func(error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = failed
}

// Committed notes that all entries up to an index are committed, to be remembered with the next write. It does not
// wait for one that is under way. Only one goroutine may call it.
func (l *Store) Committed(index uint64) { l.commit.Store(max(index, l.commit.Load())) }

// FirstIndex implements raft.LogStore.
func (l *Store) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, nil
}

// LastIndex implements raft.LogStore.
func (l *Store) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last(), nil
}

// IsMonotonic implements raft.MonotonicLogStore: there are no gaps.
func (l *Store) IsMonotonic() bool { return true }

// GetLog implements raft.LogStore.
func (l *Store) GetLog(index uint64, out *hraft.Log) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.entry(index, out)
}

// entry is GetLog; the caller holds the lock.
func (l *Store) entry(index uint64, out *hraft.Log) error {
	if l.first == 0 || index < l.first || index > l.last() {
		return hraft.ErrLogNotFound
	}
	i, found := slices.BinarySearchFunc(l.segments, index, func(s *segment, index uint64) int {
		if s.first > index {
			return 1
		}
		if s.last() < index {
			return -1
		}
		return 0
	})
	if !found {
		return hraft.ErrLogNotFound
	}
	return l.segments[i].get(index, out)
}

// StoreLog implements raft.LogStore.
func (l *Store) StoreLog(entry *hraft.Log) error { return l.StoreLogs([]*hraft.Log{entry}) }

// StoreLogs implements raft.LogStore: the entries are durable when it returns. They must follow the last one, or may
// begin anywhere if the log is empty.
func (l *Store) StoreLogs(entries []*hraft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	next := entries[0].Index
	if last := l.last(); last != 0 && next != last+1 || next == 0 {
		return fmt.Errorf("append entry %d to the Raft log: it ends at %d", next, last)
	}
	var p []byte
	var err error
	sizes := make([]int64, len(entries))
	for i, e := range entries {
		if e.Index != next+uint64(i) {
			return fmt.Errorf("append to the Raft log: entry %d after %d", e.Index, next+uint64(i)-1)
		}
		before := len(p)
		if p, err = appendRecord(p, e); err != nil {
			return err
		}
		sizes[i] = int64(len(p) - before)
	}
	if err := l.write(next, p, sizes); err != nil {
		err = fmt.Errorf("append entry %d to the Raft log: %w", next, err)
		if errors.Is(err, errUndone) && !l.shortened {
			return err
		}
		return l.fail(err)
	}
	l.shortened = false
	return nil
}

// errUndone marks a write that failed and left no trace, as on a full disk: the next one may succeed.
var errUndone = errors.New("nothing was written")

// write puts records of these sizes at the end of the log, in a new segment if there is none or it is full.
func (l *Store) write(next uint64, p []byte, sizes []int64) error {
	var s *segment
	if n := len(l.segments); n > 0 && l.segments[n-1].end < l.full {
		s = l.segments[n-1]
		if _, err := s.file.WriteAt(p, s.end); err != nil {
			if undo := s.file.Truncate(s.end); undo != nil {
				return errors.Join(err, undo)
			}
			return fmt.Errorf("%w: %w", errUndone, err)
		}
		if err := s.file.Sync(); err != nil {
			return err
		}
	} else {
		var err error
		if s, err = l.create(next, p); err != nil {
			return err
		}
		l.segments = append(l.segments, s)
		if n == 0 {
			l.first = next
		}
	}
	for _, size := range sizes {
		s.offsets = append(s.offsets, s.end)
		s.end += size
	}
	return l.putMark(s.last())
}

// create begins a segment with its first records, durably.
func (l *Store) create(first uint64, records []byte) (*segment, error) {
	path := segmentPath(l.dir, first)
	file, err := l.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = file.WriteAt(append(segmentHead(first), records...), 0); err != nil {
		if undo := errors.Join(file.Close(), l.remove(path)); undo != nil {
			return nil, errors.Join(err, undo)
		}
		return nil, fmt.Errorf("%w: %w", errUndone, err)
	}
	err = file.Sync()
	if err == nil {
		err = l.fs.SyncDir(l.dir)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &segment{path: path, file: file, first: first, end: segmentHeader}, nil
}

// fail remembers that the end of the log is unknown: after a failed sync the kernel may have dropped what was written.
// Only the next Open can tell what is there.
func (l *Store) fail(err error) error {
	l.broken = fmt.Errorf("%w: %s: %w", ErrBroken, l.dir, err)
	l.failed(l.broken)
	return l.broken
}
