package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// evictor is an Evictor that does what a test says.
type evictor struct {
	mu       sync.Mutex
	crowded  int
	asked    []int64
	makeRoom func(need int64) error
}

func (e *evictor) Crowded() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.crowded++
}

func (e *evictor) MakeRoom(_ context.Context, need int64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, need)
	return e.makeRoom(need)
}

func TestWritersAskForRoom(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.Quota = Quota{Bytes: 4 * testChunk, High: 75, Low: 50} })
	old := put(t, s, random(1, 3*testChunk))
	e := &evictor{makeRoom: func(int64) error { return old.Drop(t.Context(), bitsOf(old, 0, 1)) }}
	s.SetEvictor(e)
	p := random(2, 3*testChunk)
	f := create(t, s, p)
	must(t, f.WriteChunk(0, part(f, p, 0)))
	if e.crowded != 1 || len(e.asked) != 0 {
		t.Errorf("told %d times of the high watermark, asked %d times", e.crowded, len(e.asked))
	}
	must(t, f.WriteChunk(1, part(f, p, 1)))
	if len(e.asked) != 1 || e.asked[0] != testChunk || old.HeldBytes() != testChunk {
		t.Errorf("asked for %d, %d bytes of the old file are left", e.asked, old.HeldBytes())
	}
	must(t, s.MakeRoom(t.Context(), testChunk))
	put(t, s, random(3, testChunk)) // the quota is full again
	e.makeRoom = func(int64) error { return nil }
	e.asked = nil
	if err := f.WriteChunk(2, part(f, p, 2)); !errors.Is(err, ErrNoSpace) || len(e.asked) != maxAsks {
		t.Errorf("an evictor that frees nothing: %v, asked %d times", err, len(e.asked))
	}
	e.makeRoom = func(int64) error { return errors.New("all must stay") }
	for name, err := range map[string]error{
		"write":  f.WriteChunk(2, part(f, p, 2)),
		"import": importError(t, s, random(4, testChunk)),
		"ask":    s.MakeRoom(t.Context(), 1),
	} {
		if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "all must stay") {
			t.Errorf("%s: %v", name, err)
		}
	}
	crowded := e.crowded
	s.SetQuota(Quota{})
	if e.crowded != crowded+1 {
		t.Error("the evictor was not told of the new quota")
	}
	must(t, f.WriteChunk(2, part(f, p, 2)))
}

// TestFullDiskAsksForRoom: the disk itself may be full before the account says so.
func TestFullDiskAsksForRoom(t *testing.T) {
	m := disktest.NewMemory(0)
	fault, err := disktest.NewFault(m, "/attic", 1)
	must(t, err)
	s := open(t, "/store", func(o *Options) { o.FS = fault })
	old := put(t, s, random(1, 2*testChunk))
	p := random(2, testChunk)
	f := create(t, s, p)
	e := &evictor{makeRoom: func(int64) error { return old.Drop(t.Context(), bitsOf(old, 0)) }}
	s.SetEvictor(e)
	fault.FailAt(1, disktest.NoSpace())
	must(t, f.WriteChunk(0, p))
	if len(e.asked) != 1 || old.HeldBytes() != testChunk {
		t.Errorf("asked %d times, %d bytes of the old file are left", len(e.asked), old.HeldBytes())
	}
}

// TestBudgetFollowsTheDisk: without a quota the file system sets the limit, less what it keeps free for others.
func TestBudgetFollowsTheDisk(t *testing.T) {
	m := disktest.NewMemory(64 * testChunk)
	s := open(t, "/store", func(o *Options) { o.FS = m })
	u := s.Usage()
	if u.Reserve != 64*testChunk/20 || u.Budget > 64*testChunk-u.Reserve || u.Budget < 60*testChunk {
		t.Errorf("usage %+v", u)
	}
	put(t, s, random(1, 20*testChunk))
	if got := s.Usage().Budget; got > u.Budget || got < u.Budget-testChunk {
		t.Errorf("budget %d, was %d before the store took a part of it", got, u.Budget)
	}
	hog, err := m.OpenFile("/hog", 0x42, 0o600) // O_RDWR|O_CREATE
	must(t, err)
	defer hog.Close()
	_, err = hog.WriteAt(make([]byte, 38*testChunk), 0)
	must(t, err)
	if got := s.Usage(); got.Budget > 24*testChunk || got.Excess() != 0 {
		t.Errorf("usage beside somebody else's data %+v", got)
	}
	if err := importError(t, s, random(2, 4*testChunk)); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "kept free") {
		t.Errorf("import: %v", err)
	}
	_, err = hog.WriteAt(make([]byte, 3*testChunk), 38*testChunk)
	must(t, err)
	if got := s.Usage(); got.Excess() == 0 || got.Budget >= 21*testChunk {
		t.Errorf("usage on a crowded disk %+v", got)
	}
}

func TestQuotaDefaults(t *testing.T) {
	for _, c := range []struct{ given, want Quota }{
		{Quota{}, Quota{High: DefaultHigh, Low: DefaultLow}},
		{Quota{High: 70}, Quota{High: 70, Low: 70}},
		{Quota{High: 150, Low: 95}, Quota{High: DefaultHigh, Low: DefaultHigh}},
		{Quota{Bytes: 5, High: 95, Low: 60}, Quota{Bytes: 5, High: 95, Low: 60}},
	} {
		if got := c.given.defaults(); got != c.want {
			t.Errorf("%+v becomes %+v, want %+v", c.given, got, c.want)
		}
	}
}

// TestFewFilesStayOpen: files with unsynced writes are made durable early when they are many.
func TestFewFilesStayOpen(t *testing.T) {
	s := open(t, t.TempDir())
	s.handles.limit = 8
	for i := range 100 {
		p := random(uint64(i), 10)
		f := create(t, s, p)
		must(t, f.WriteChunk(0, p))
		if n := s.handles.count(); n > 8 {
			t.Fatalf("%d files are open", n)
		}
	}
}

// TestHistories compares a store with a model through random writes, drops, removals, quotas and restarts.
func TestHistories(t *testing.T) {
	const files, chunks = 3, 5
	contents := make([][]byte, files)
	manifests := make([]*content.Manifest, files)
	for i := range contents {
		contents[i] = random(uint64(i), chunks*testChunk-i)
		manifests[i] = manifestOf(t, contents[i])
	}
	rapid.Check(t, func(t *rapid.T) {
		m := disktest.NewMemory(0)
		reopen := func() *Store {
			s, err := Open(Options{Dir: "/store", FS: m})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := reopen()
		defer func() { s.Close() }()
		held := map[string]int64{} // "file/chunk": bytes
		quota := int64(0)
		sum := func() (n int64) {
			for _, b := range held {
				n += b
			}
			return n
		}
		file := func(t *rapid.T) (int, *File) {
			i := rapid.IntRange(0, files-1).Draw(t, "file")
			f, err := s.Create(context.Background(), manifests[i])
			if err != nil {
				t.Fatal(err)
			}
			return i, f
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				i, f := file(t)
				c := rapid.IntRange(0, chunks-1).Draw(t, "chunk")
				key, n := fmt.Sprint(i, "/", c), int64(manifests[i].ChunkLen(c))
				err := f.WriteChunk(c, contents[i][c*testChunk:c*testChunk+int(n)])
				fits := held[key] > 0 || quota == 0 || sum()+n <= quota
				if fits != (err == nil) || err != nil && !errors.Is(err, ErrNoSpace) {
					t.Fatalf("%d held, quota %d: %v", sum(), quota, err)
				}
				if err == nil {
					held[key] = n
				}
			},
			"drop": func(t *rapid.T) {
				i, f := file(t)
				b := content.NewBits(chunks)
				for _, c := range rapid.SliceOf(rapid.IntRange(0, chunks-1)).Draw(t, "chunks") {
					b.Set(c)
					delete(held, fmt.Sprint(i, "/", c))
				}
				if err := f.Drop(context.Background(), b); err != nil {
					t.Fatal(err)
				}
			},
			"remove": func(t *rapid.T) {
				i, f := file(t)
				if err := s.Remove(f.ID()); err != nil {
					t.Fatal(err)
				}
				for c := range chunks {
					delete(held, fmt.Sprint(i, "/", c))
				}
			},
			"quota": func(t *rapid.T) {
				quota = rapid.Int64Range(0, 12).Draw(t, "quota") * testChunk
				s.SetQuota(Quota{Bytes: quota})
			},
			"restart": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = reopen()
				s.SetQuota(Quota{Bytes: quota})
			},
			"": func(t *rapid.T) {
				if u := s.Usage(); u.Bytes != sum() || u.Arriving != 0 {
					t.Fatalf("usage %+v, want %d", u, sum())
				}
				for i, p := range contents {
					f, ok := s.Get(manifests[i].ID())
					for c := 0; ok && c < chunks; c++ {
						got, err := f.ReadChunk(c, nil)
						if here := held[fmt.Sprint(i, "/", c)] > 0; here != (err == nil) || err != nil && !errors.Is(err, ErrMissing) {
							t.Fatalf("chunk %d/%d: held %v, %v", i, c, here, err)
						}
						if err == nil && string(got) != string(p[c*testChunk:c*testChunk+len(got)]) {
							t.Fatalf("chunk %d/%d is wrong", i, c)
						}
					}
				}
			},
		})
	})
}
