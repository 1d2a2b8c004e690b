package raftlog

import (
	"errors"
	"fmt"

	hraft "github.com/hashicorp/raft"
)

// DeleteRange implements raft.LogStore for a prefix (compaction), a suffix (conflict with the leader) or all of the
// log. Of a prefix whole segments only go from disk, so that entries may come back after a restart; Raft does not
// mind. After Installed, all of the log means what the snapshot has replaced: see keepBehind.
func (l *Store) DeleteRange(from, to uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.last()
	switch {
	case l.broken != nil:
		return l.broken
	case from > to || l.first == 0 || to < l.first || from > last:
		return nil
	case from > l.first && to < last:
		return fmt.Errorf("delete entries %d to %d: in the middle of the Raft log (%d to %d)", from, to, l.first, last)
	}
	var err error
	switch {
	case from <= l.first && to < last:
		err = l.dropPrefix(to + 1)
	case from <= l.first && l.installed:
		l.installed = false
		err = l.keepBehind(l.behind())
	default:
		l.shortened = true
		err = l.dropSuffix(max(from, l.first))
	}
	if err != nil {
		return l.fail(fmt.Errorf("delete entries %d to %d of the Raft log: %w", from, to, err))
	}
	return nil
}

// Installed notes that a snapshot of the leader has replaced the state, and that hashicorp/raft deletes the whole log
// next.
func (l *Store) Installed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.installed = l.behind != nil && l.first > 0
}

// OnInstalled has behind called when that log is deleted: it returns the index and the term of the last entry of the
// snapshot, the term 0 if it is not known. It must not use the log.
func (l *Store) OnInstalled(behind func() (index, term uint64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind = behind
}

// keepBehind deletes what a snapshot up to an entry has replaced. hashicorp/raft (v1.8.0, installSnapshot) deletes the
// whole log, and believes that its last entry is still there. If the log went on behind the snapshot, the leader's next
// entries would then leave a gap, and Raft ends the process when it misses the first entry of it. Moreover, what is
// behind may count for a majority. So the log stays from the snapshot's last entry on, if it is the same history: if it
// has that very entry. If it is not, only a restart tells Raft where the log ends.
func (l *Store) keepBehind(index, term uint64) error {
	last := l.last()
	if last <= index {
		l.shortened = true
		return l.dropSuffix(l.first)
	}
	var at hraft.Log
	if err := l.entry(index, &at); err != nil || at.Term != term {
		return fmt.Errorf("%w: it ends at entry %d, the log at %d", ErrOvertaken, index, last)
	}
	return l.dropPrefix(index)
}

// dropPrefix makes first the first entry.
func (l *Store) dropPrefix(first uint64) error {
	for l.segments[0].last() < first {
		if err := l.drop(0); err != nil {
			return err
		}
	}
	l.first = first
	return nil
}

// dropSuffix deletes the entry from and all behind it. The mark comes first and is synced: else a loss of power might
// leave one that promises too much.
func (l *Store) dropSuffix(from uint64) error {
	durable := from - 1
	if from == l.first {
		durable = 0
	}
	if err := l.putMark(durable); err != nil {
		return err
	}
	if err := l.mark.Sync(); err != nil {
		return err
	}
	for n := len(l.segments); n > 0 && l.segments[n-1].first >= from; n-- {
		if err := l.drop(n - 1); err != nil {
			return err
		}
	}
	// If the log is empty now, segments before the first entry (a prefix gone logically only) go as well.
	if durable == 0 {
		for len(l.segments) > 0 {
			if err := l.drop(len(l.segments) - 1); err != nil {
				return err
			}
		}
		l.first = 0
		return nil
	}
	s := l.segments[len(l.segments)-1]
	if s.last() < from {
		return nil
	}
	return l.cut(s, int(from-s.first))
}

// cut shortens a segment to its first n records, durably.
func (l *Store) cut(s *segment, n int) error {
	if n < len(s.offsets) {
		s.end, s.offsets = s.offsets[n], s.offsets[:n]
	}
	if err := s.file.Truncate(s.end); err != nil {
		return err
	}
	return s.file.Sync()
}

// drop deletes the segment at a place of the list.
func (l *Store) drop(i int) error {
	s := l.segments[i]
	if err := errors.Join(s.file.Close(), l.remove(s.path)); err != nil {
		return err
	}
	l.segments = append(l.segments[:i:i], l.segments[i+1:]...)
	return nil
}

// remove deletes a segment file, durably: should it come back after a loss of power, it would leave a gap.
func (l *Store) remove(path string) error {
	if err := l.fs.Remove(path); err != nil {
		return err
	}
	return l.fs.SyncDir(l.dir)
}

// Reset empties the log: a snapshot has overtaken it.
func (l *Store) Reset() error {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	return l.DeleteRange(first, last)
}

// Close writes the mark and closes the files.
func (l *Store) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.broken == nil && l.mark != nil {
		err = l.putMark(l.last())
	}
	err = errors.Join(err, l.closeFiles())
	l.broken = ErrClosed
	if err != nil {
		return fmt.Errorf("close Raft log: %w", err)
	}
	return nil
}

func (l *Store) closeFiles() error {
	var errs []error
	for _, s := range l.segments {
		if s.file != nil {
			errs = append(errs, s.file.Close())
		}
	}
	if l.mark != nil {
		errs = append(errs, l.mark.Close())
	}
	l.segments, l.mark, l.first = nil, nil, 0
	return errors.Join(errs...)
}
