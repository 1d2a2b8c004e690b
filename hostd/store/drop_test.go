package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// bitsOf returns a set of chunks of f.
func bitsOf(f *File, chunks ...int) content.Bits {
	b := content.NewBits(f.Manifest().Chunks())
	for _, i := range chunks {
		b.Set(i)
	}
	return b
}

// allocated returns the bytes that the data file of f takes on the disk.
func allocated(t *testing.T, f *File) int64 {
	t.Helper()
	st, err := os.Stat(dataIn(f.dir))
	must(t, err)
	return st.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestDrop(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	p := random(1, 6*testChunk+5)
	f := put(t, s, p)
	before := allocated(t, f)
	must(t, f.Drop(t.Context(), bitsOf(f, 0, 1, 4, 6)))
	if _, err := f.ReadChunk(1, nil); !errors.Is(err, ErrMissing) {
		t.Errorf("read of a dropped chunk: %v", err)
	}
	if f.Missing() != 4 || f.HeldBytes() != 3*testChunk || f.Durable().Count() != 3 {
		t.Errorf("%d missing, %d bytes, %d durable", f.Missing(), f.HeldBytes(), f.Durable().Count())
	}
	if u := s.Usage(); u.Bytes != 3*testChunk || u.Arriving != 0 {
		t.Errorf("usage %+v", u)
	}
	if freed := before - allocated(t, f); freed < 3*testChunk {
		t.Errorf("%d bytes freed on the disk", freed)
	}
	if n := testutil.ToFloat64(s.metrics.droppedBytes); n != 3*testChunk+5 {
		t.Errorf("%v bytes counted", n)
	}
	must(t, f.Drop(t.Context(), bitsOf(f, 0, 1))) // nothing
	must(t, s.Close())

	s = open(t, dir)
	f, _ = s.Get(f.ID())
	if f.Missing() != 4 {
		t.Errorf("%d missing after a restart", f.Missing())
	}
	for _, i := range []int{0, 1, 4, 6} {
		must(t, f.WriteChunk(i, part(f, p, i)))
	}
	wantContent(t, f, p)
	must(t, f.Drop(t.Context(), content.NewBits(7))) // nobody's wish
	wantContent(t, f, p)
}

// TestDropUnmarksBeforeItPunches watches the order itself.
func TestDropUnmarksBeforeItPunches(t *testing.T) {
	fault, _, f := faulty(t, random(1, 6*testChunk))
	var order []string
	fault.OnOp(func(op disktest.Op) error {
		if op.N > 0 {
			order = append(order, op.Name+" "+filepath.Base(op.Path))
		}
		return nil
	})
	must(t, f.Drop(t.Context(), bitsOf(f, 0, 1, 4)))
	fault.OnOp(nil)
	if got, want := strings.Join(order, ", "), "write bitmap, sync bitmap, punch data, punch data"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
}

// TestDropThatFails: a bitmap that cannot be written costs nothing, and is written later.
func TestDropThatFails(t *testing.T) {
	p := random(1, 3*testChunk)
	for step := 1; step <= 2; step++ {
		fault, s, f := faulty(t, p)
		fault.FailAt(step, syscall.EIO)
		if err := f.Drop(t.Context(), bitsOf(f, 0, 2)); !errors.Is(err, syscall.EIO) {
			t.Errorf("step %d: %v", step, err)
		}
		wantContent(t, f, p)
		if u := s.Usage(); u.Bytes != 3*testChunk || u.Arriving != 0 {
			t.Errorf("step %d: usage %+v", step, u)
		}
		must(t, f.Sync(t.Context()))
		if !f.Durable().Full() {
			t.Errorf("step %d: not durable again", step)
		}
	}
	// What cannot be punched is not held any more all the same, and comes back at the next start.
	fault, _, f := faulty(t, p)
	fault.FailAt(3, syscall.EOPNOTSUPP)
	if err := f.Drop(t.Context(), bitsOf(f, 1)); !errors.Is(err, syscall.EOPNOTSUPP) || f.Has(1) {
		t.Errorf("punching: %v, held %v", err, f.Has(1))
	}
}

func TestDropSparesWhatIsUsed(t *testing.T) {
	p := random(1, 3*testChunk)
	s := open(t, t.TempDir())
	f := put(t, s, p)
	done, more := f.Use(), f.Use()
	for _, end := range []func(){done, more} {
		if err := f.Drop(t.Context(), bitsOf(f, 0)); !errors.Is(err, ErrInUse) || !f.InUse() {
			t.Errorf("drop while in use: %v", err)
		}
		end()
		end() // more than once is once
	}
	out := filepath.Join(t.TempDir(), "out")
	must(t, f.Export(t.Context(), out, ExportOptions{Mode: HardLink}, nil))
	if err := f.Drop(t.Context(), bitsOf(f, 0)); !errors.Is(err, ErrLinked) {
		t.Errorf("drop of what somebody else sees: %v", err)
	}
	wantContent(t, f, p)
	if got, err := os.ReadFile(out); err != nil || string(got) != string(p) {
		t.Errorf("the second name lost its bytes (%v)", err)
	}
	must(t, os.Remove(out))
	must(t, f.Drop(t.Context(), bitsOf(f, 0)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.flushing <- struct{}{}
	if err := f.Drop(ctx, bitsOf(f, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("drop that need not wait: %v", err)
	}
	<-f.flushing
	must(t, s.Remove(f.ID()))
	if err := f.Drop(t.Context(), bitsOf(f, 1)); !errors.Is(err, ErrRemoved) {
		t.Errorf("drop of a removed file: %v", err)
	}
}

// TestDroppedChunksAreNotLent: another file gets a chunk from who holds it, not from who held it.
func TestDroppedChunksAreNotLent(t *testing.T) {
	s := open(t, t.TempDir())
	p := random(1, 4*testChunk)
	f := put(t, s, p)
	must(t, f.Drop(t.Context(), bitsOf(f, 1, 3)))
	wider := create(t, s, append(random(2, testChunk), p...))
	for i, want := range []bool{false, true, false, true, false} {
		if wider.Has(i) != want {
			t.Errorf("chunk %d is held: %v", i, wider.Has(i))
		}
	}
	must(t, wider.WriteChunk(2, p[testChunk:2*testChunk]))
	last := create(t, s, p[testChunk:3*testChunk]) // one from each
	wantContent(t, last, p[testChunk:3*testChunk])
}

// TestDropAndWriteAtOnce: whoever reads, writes and drops the same chunks at the same time sees them right or missing.
func TestDropAndWriteAtOnce(t *testing.T) {
	p := random(1, 4*testChunk)
	s := open(t, t.TempDir())
	f := put(t, s, p)
	var wg sync.WaitGroup
	var stop atomic.Bool
	work := func(do func(i int) error, may ...error) {
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				err := do(n % 4)
				for _, e := range may {
					if errors.Is(err, e) {
						err = nil
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		work(func(i int) error { return f.WriteChunk(i, part(f, p, i)) })
	}
	work(func(i int) error {
		got, err := f.ReadChunk(i, nil)
		if err == nil && string(got) != string(part(f, p, i)) {
			return errors.New("wrong bytes")
		}
		return err
	}, ErrMissing, ErrCorrupt)
	work(func(int) error { return f.Sync(t.Context()) })
	for range 200 {
		must(t, f.Drop(t.Context(), bitsOf(f, 0, 2, 3)))
	}
	stop.Store(true)
	wg.Wait()
	for i := range 4 {
		must(t, f.WriteChunk(i, part(f, p, i)))
	}
	wantContent(t, f, p)
	if u := s.Usage(); u.Bytes != 4*testChunk || u.Arriving != 0 {
		t.Errorf("usage %+v", u)
	}
}

func TestLastUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	f := put(t, s, random(1, testChunk))
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	f.used.Store(old.UnixNano())
	if bad, err := f.Verify(t.Context(), nil); len(bad) > 0 || err != nil || !f.LastUse().Equal(old) {
		t.Errorf("a check is no use: %v", f.LastUse())
	}
	must(t, s.Close())
	s = open(t, dir)
	f, _ = s.Get(f.ID())
	if !f.LastUse().Equal(old) {
		t.Errorf("last use %v after a restart, want %v", f.LastUse(), old)
	}
	_, err := f.ReadChunk(0, nil)
	must(t, err)
	if time.Since(f.LastUse()) > time.Minute {
		t.Errorf("a read is a use: %v", f.LastUse())
	}
	used := f.LastUse()
	s.flusher.saveUses() // as it does every minute; then the process is killed
	if st, err := os.Stat(manifestIn(f.dir)); err != nil || !st.ModTime().Equal(used) {
		t.Errorf("noted: %v, want %v (%v)", st.ModTime(), used, err)
	}
}
