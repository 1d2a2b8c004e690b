package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// smallSegment makes the log of a test use several segments.
const smallSegment = 300

func mustOpenLog(t interface{ Fatalf(string, ...any) }, f disk.FS, dir string) *Store {
	l, err := Open(f, dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatalf("open log: %v", err)
	}
	l.SetSegmentSize(smallSegment)
	return l
}

func entry(index, term uint64) *hraft.Log {
	return &hraft.Log{
		Index: index, Term: term, Type: hraft.LogType(index % 2), AppendedAt: time.Unix(0, int64(index*7)),
		Data:       bytes.Repeat([]byte{byte(index), byte(term)}, int(index%20)),
		Extensions: bytes.Repeat([]byte{byte(term)}, int(index%3)),
	}
}

func entries(from, to, term uint64) (list []*hraft.Log) {
	for i := from; i <= to; i++ {
		list = append(list, entry(i, term))
	}
	return list
}

func sameEntry(a, b *hraft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt.Equal(b.AppendedAt) &&
		bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

// logModel is what the log should hold: the term of each entry.
type logModel struct {
	first, last uint64 // 0, 0 if empty
	terms       map[uint64]uint64
}

func (m *logModel) store(from, to, term uint64) {
	if m.first == 0 {
		m.first = from
	}
	for i := from; i <= to; i++ {
		m.terms[i] = term
	}
	m.last = to
}

func (m *logModel) drop(from, to uint64) {
	if from <= m.first && to >= m.last {
		m.first, m.last = 0, 0
	} else if from <= m.first {
		m.first = to + 1
	} else {
		m.last = from - 1
	}
}

// check compares. After a restart more of the beginning may be there than the model has.
func (m *logModel) check(l *Store, restarted bool) error {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if last != m.last || first != m.first && (!restarted || first > m.first || first == 0) {
		return fmt.Errorf("log holds %d to %d, want %d to %d", first, last, m.first, m.last)
	}
	var got hraft.Log
	for i := first; i != 0 && i <= last; i++ {
		if err := l.GetLog(i, &got); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if !sameEntry(&got, entry(i, m.terms[i])) {
			return fmt.Errorf("entry %d is %+v, want term %d", i, got, m.terms[i])
		}
	}
	if err := l.GetLog(last+1, &got); !errors.Is(err, hraft.ErrLogNotFound) {
		return fmt.Errorf("entry %d behind the end: %v", last+1, err)
	}
	return nil
}

// logOp is one random operation: what it would make of the model, and how to do it.
func logOp(t *rapid.T, m *logModel) (what string, do func(l *Store) error, effect func(*logModel)) {
	kind := rapid.IntRange(0, 9).Draw(t, "kind")
	switch {
	case kind < 6 || m.first == 0:
		from := m.last + 1
		if m.first == 0 {
			from = uint64(rapid.IntRange(1, 50).Draw(t, "from"))
		}
		to, term := from+uint64(rapid.IntRange(0, 9).Draw(t, "n")), uint64(rapid.IntRange(1, 100).Draw(t, "term"))
		return fmt.Sprintf("store %d-%d", from, to),
			func(l *Store) error { return l.StoreLogs(entries(from, to, term)) },
			func(m *logModel) { m.store(from, to, term) }
	case kind < 8: // a conflict with the leader
		from, to := uint64(rapid.Uint64Range(m.first, m.last).Draw(t, "cut")), m.last
		return fmt.Sprintf("drop suffix %d-%d", from, to),
			func(l *Store) error { return l.DeleteRange(from, to) },
			func(m *logModel) { m.drop(from, to) }
	}
	from, to := m.first, uint64(rapid.Uint64Range(m.first, m.last).Draw(t, "cut"))
	return fmt.Sprintf("drop prefix %d-%d", from, to),
		func(l *Store) error { return l.DeleteRange(from, to) },
		func(m *logModel) { m.drop(from, to) }
}

func TestLogDoesWhatRaftAsks(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		m := &logModel{terms: map[uint64]uint64{}}
		l := mustOpenLog(t, disk.OS{}, dir)
		for range rapid.IntRange(1, 30).Draw(t, "ops") {
			if rapid.IntRange(0, 5).Draw(t, "reopen") == 0 {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = mustOpenLog(t, disk.OS{}, dir)
				if err := m.check(l, true); err != nil {
					t.Fatalf("after a restart: %v", err)
				}
				m.first, _ = l.FirstIndex()
			}
			what, do, effect := logOp(t, m)
			if err := do(l); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			effect(m)
			if err := m.check(l, false); err != nil {
				t.Fatalf("after %s: %v", what, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLogSurvivesPowerLoss cuts the power, or kills the process, in the middle of an operation. What was acknowledged
// must be there; of the operation that was cut, some may be.
func TestLogSurvivesPowerLoss(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		m := &logModel{terms: map[uint64]uint64{}}
		for round := range 3 {
			cutLog(t, m, dir, fmt.Sprintf("%s.attic%d", dir, round))
		}
	})
}

// cutLog runs operations until the power goes, restarts, and makes the model say what was found.
func cutLog(t *rapid.T, m *logModel, dir, attic string) {
	fault, err := disktest.NewFault(disk.OS{}, attic, rapid.Uint64().Draw(t, "seed"))
	if err != nil {
		t.Fatal(err)
	}
	l := mustOpenLog(t, fault, filepath.Join(dir))
	if rapid.Bool().Draw(t, "in the middle") {
		fault.KillAt(rapid.IntRange(1, 40).Draw(t, "killed at"))
	}
	before, after := *m, *m
	what := "nothing"
	for range rapid.IntRange(1, 15).Draw(t, "ops") {
		var do func(*Store) error
		var effect func(*logModel)
		before = logModel{m.first, m.last, cloneTerms(m.terms)}
		what, do, effect = logOp(t, m)
		effect(m)
		after = *m
		if err := do(l); err != nil {
			if !errors.Is(err, disktest.ErrKilled) {
				t.Fatalf("%s: %v", what, err)
			}
			break
		}
		before = after
	}
	if rapid.Bool().Draw(t, "power off") {
		if err := fault.PowerOff(); err != nil {
			t.Fatal(err)
		}
	} else {
		fault.Kill()
	}
	_ = l.Close()
	l = mustOpenLog(t, disk.OS{}, dir)
	defer l.Close()
	if err := between(l, before, after); err != nil {
		t.Fatalf("after a crash in %s: %v", what, err)
	}
	m.first, _ = l.FirstIndex()
	m.last, _ = l.LastIndex()
}

func cloneTerms(m map[uint64]uint64) map[uint64]uint64 {
	c := make(map[uint64]uint64, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// between checks that the log holds what it held before an operation, or after it, or part of the way; and sets the
// terms of after to what was found.
func between(l *Store, before, after logModel) error {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	// Both before and after have these: they must be there. (A prefix that was dropped may come back.)
	for i := max(before.first, after.first, 1); i <= min(before.last, after.last); i++ {
		if before.first == 0 || after.first == 0 {
			break
		}
		if i < first || i > last {
			return fmt.Errorf("acknowledged entry %d is missing: the log holds %d to %d", i, first, last)
		}
	}
	if before.first == after.first && before.last == after.last && last != after.last {
		return fmt.Errorf("the log ends at %d, want %d", last, after.last)
	}
	var got hraft.Log
	for i := first; i != 0 && i <= last; i++ {
		if err := l.GetLog(i, &got); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		switch {
		case sameEntry(&got, entry(i, after.terms[i])):
		case sameEntry(&got, entry(i, before.terms[i])):
			after.terms[i] = before.terms[i]
		default:
			return fmt.Errorf("entry %d is %+v, want term %d or %d", i, got, before.terms[i], after.terms[i])
		}
	}
	return nil
}

// TestLogNoticesEveryFlippedByte flips each byte of a log in turn.
func TestLogNoticesEveryFlippedByte(t *testing.T) {
	dir := t.TempDir()
	l := mustOpenLog(t, disk.OS{}, dir)
	if err := errors.Join(l.StoreLogs(entries(1, 12, 1)), l.StoreLogs(entries(13, 20, 2)), l.Close()); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(paths) < 2 {
		t.Fatalf("segments: %v, %v; want several", paths, err)
	}
	for _, path := range paths {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			p := bytes.Clone(whole)
			p[i] ^= 0x10
			wantDamaged(t, dir, path, p, fmt.Sprintf("byte %d of %s flipped", i, filepath.Base(path)))
		}
		for _, n := range []int{0, 1, segmentHeader, len(whole) / 2, len(whole) - 1} {
			wantDamaged(t, dir, path, whole[:n], fmt.Sprintf("%s cut to %d bytes", filepath.Base(path), n))
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A segment that is missing altogether.
	for _, path := range paths[1:] {
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(disk.OS{}, dir, hclog.NewNullLogger()); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s is missing: open says %v, want ErrDamaged", path, err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
	m := &logModel{terms: map[uint64]uint64{}}
	m.store(1, 12, 1)
	m.store(13, 20, 2)
	if err := m.check(mustOpenLog(t, disk.OS{}, dir), true); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
}

func wantDamaged(t *testing.T, dir, path string, p []byte, what string) {
	t.Helper()
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(disk.OS{}, dir, hclog.NewNullLogger())
	if err == nil {
		_ = l.Close()
	}
	if !errors.Is(err, ErrDamaged) || !bytes.Contains([]byte(err.Error()), []byte(dir)) {
		t.Fatalf("%s: open says %v, want ErrDamaged that names the path", what, err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(after, p) {
		t.Fatalf("%s: open changed the damaged file (%v)", what, err)
	}
}

func TestLogGoesOnAfterAFullDisk(t *testing.T) {
	dir := t.TempDir()
	fault, err := disktest.NewFault(disk.OS{}, t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	l := mustOpenLog(t, fault, dir)
	if err := l.StoreLogs(entries(1, 3, 1)); err != nil {
		t.Fatal(err)
	}
	fault.FailAt(1, disktest.ErrTorn) // half of it is written
	if err := l.StoreLogs(entries(4, 6, 1)); !errors.Is(err, disktest.ErrTorn) {
		t.Fatalf("store on a full disk: %v", err)
	}
	if err := l.StoreLogs(entries(4, 6, 2)); err != nil {
		t.Fatalf("store when there is space again: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	m := &logModel{terms: map[uint64]uint64{}}
	m.store(1, 3, 1)
	m.store(4, 6, 2)
	if err := m.check(mustOpenLog(t, disk.OS{}, dir), true); err != nil {
		t.Fatal(err)
	}
}

// After a suffix was deleted, a write that fails for want of space must not be taken for one that can simply be
// repeated: Raft believes that the suffix is still there.
func TestLogRefusesToGoOnAfterAFullDiskAndADeletedSuffix(t *testing.T) {
	fault, err := disktest.NewFault(disk.OS{}, t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	l := mustOpenLog(t, fault, t.TempDir())
	if err := errors.Join(l.StoreLogs(entries(1, 6, 1)), l.DeleteRange(4, 6)); err != nil {
		t.Fatal(err)
	}
	fault.FailAt(1, disktest.ErrTorn)
	if err := l.StoreLogs(entries(4, 6, 2)); !errors.Is(err, ErrBroken) {
		t.Fatalf("store on a full disk: %v", err)
	}
	if err := l.StoreLogs(entries(4, 6, 2)); !errors.Is(err, ErrBroken) {
		t.Fatalf("store when there is space again: %v", err)
	}
}

func TestLogRefusesToGoOnAfterAFailedSync(t *testing.T) {
	fault, err := disktest.NewFault(disk.OS{}, t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	l := mustOpenLog(t, fault, t.TempDir())
	if err := l.StoreLogs(entries(1, 1, 1)); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("medium error")
	fault.FailAt(2, broken) // the sync after the write
	if err := l.StoreLogs(entries(2, 2, 1)); !errors.Is(err, broken) {
		t.Fatalf("store with a failing sync: %v", err)
	}
	if err := l.StoreLogs(entries(2, 2, 1)); !errors.Is(err, broken) {
		t.Fatalf("store after a failed sync: %v; the kernel may have dropped the pages", err)
	}
}

func FuzzSegment(f *testing.F) {
	good := segmentHead(7)
	for _, e := range entries(7, 10, 3) {
		good, _ = appendRecord(good, e)
	}
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add(segmentHead(7))
	f.Fuzz(func(t *testing.T, p []byte) {
		offsets, end, err := scanSegment(p, 7)
		if (err == nil) != (end == int64(len(p))) && len(p) >= segmentHeader {
			t.Fatalf("scan of %d bytes ends at %d with %v", len(p), end, err)
		}
		// What was read must be what would be written.
		again := segmentHead(7)
		at := int64(segmentHeader)
		for i := range offsets {
			var l hraft.Log
			n, err := decodeRecord(p[at:], 7+uint64(i), &l)
			if err != nil || offsets[i] != at {
				t.Fatalf("record %d at %d (%d): %v", i, at, offsets[i], err)
			}
			if again, err = appendRecord(again, &l); err != nil {
				t.Fatal(err)
			}
			at += int64(n)
		}
		if len(offsets) > 0 && !bytes.Equal(again, p[:end]) {
			t.Fatal("records are not canonical")
		}
	})
}
