package hook

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/placement"
)

// room is a Hook over a real store and a real catalogue. What the store does not hold nobody holds.
type room struct {
	*testing.T
	dir    string
	store  *store.Store
	state  *placement.State
	index  uint64
	opened int
	hook   *Hook
}

const self = placement.HostID("00000000000000000000000000000001")

func newRoom(t *testing.T) *room {
	r := &room{T: t, dir: t.TempDir(), state: placement.New()}
	var err error
	if r.store, err = store.Open(store.Options{Dir: filepath.Join(r.dir, "store")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.store.Close() })
	r.apply(placement.Command{InitCluster: &placement.InitCluster{ID: "c", Host: placement.Host{ID: self, Name: "h1", Addr: "h1:1"}}})
	r.open()
	return r
}

// open begins anew, as after a restart.
func (r *room) open() {
	r.Helper()
	var err error
	r.hook, err = New(Config{
		Catalogue: r, Fetch: r, FS: disk.OS{}, Dir: r.dir,
	})
	if err != nil {
		r.Fatal(err)
	}
}

func (r *room) apply(c placement.Command) {
	r.Helper()
	r.index++
	if _, err := r.state.Apply(r.index, c); err != nil {
		r.Fatal(err)
	}
}

func (r *room) ReadIndex(context.Context) error       { return nil }
func (r *room) View(f func(*placement.State))         { f(r.state) }
func (r *room) path(name string) string               { return filepath.Join(r.dir, name) }
func (r *room) prepare(needs ...placement.Need) error { return r.hook.Prepare(r.Context(), needs, nil) }

func (r *room) Open(ctx context.Context, id content.Digest, purpose fetch.Priority) (*fetch.Handle, error) {
	r.opened++
	return fetch.New(fetch.Config{Store: r.store, Swarm: nobody{}}).Open(ctx, id, purpose)
}

// nobody is a swarm without other hosts.
type nobody struct{}

func (nobody) Manifest(context.Context, content.Digest) (*content.Manifest, error) {
	return nil, swarm.ErrNoHolder
}

func (nobody) Fetch(_ context.Context, f swarm.File, want content.Bits, _ swarm.Priority, _ func(swarm.Progress)) error {
	lack := want.Clone()
	if lack.AndNot(f.Have()); lack.Count() > 0 {
		return swarm.ErrNoHolder
	}
	return nil
}

// publish makes a version of a name, of bytes that the store holds.
func (r *room) publish(name string, data []byte) content.Digest {
	r.Helper()
	src, err := os.Create(r.path("source"))
	if err == nil {
		_, err = src.Write(data)
	}
	if err != nil {
		r.Fatal(err)
	}
	defer src.Close()
	f, err := r.store.Import(r.Context(), src, store.ImportOptions{ChunkSize: content.MinChunkSize})
	if err != nil {
		r.Fatal(err)
	}
	m := f.Manifest()
	r.apply(placement.Command{Publish: &placement.Publish{
		Name: name, ID: f.ID(), Size: m.Size(), DataBytes: m.DataBytes(), ChunkSize: m.ChunkSize(), Shards: m.Shards(), Replicas: 1, Publisher: self, At: int64(r.index),
	}})
	return f.ID()
}

func (r *room) holds(path string, want []byte) {
	r.Helper()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		r.Errorf("%s has %d bytes (%v), want %d others", path, len(got), err, len(want))
	}
}

func some(b byte) []byte { return bytes.Repeat([]byte{b, 1, 2, 3}, 50_000) }

// TestExposes: a file comes to its path, is left alone afterwards, and comes back if it was removed.
func TestExposes(t *testing.T) {
	r := newRoom(t)
	id := r.publish("images/a", some(7))
	need := placement.Need{Name: "images/a", Path: r.path("made/for/it/a.raw")}
	if err := r.prepare(need); err != nil {
		t.Fatal(err)
	}
	r.holds(need.Path, some(7))
	if got, ok := r.hook.Exposed(need.Path); !ok || got != id {
		t.Errorf("exposed: %v, %v", got, ok)
	}
	before := r.opened
	r.open()
	if err := r.prepare(need); err != nil || r.opened != before {
		t.Errorf("again, after a restart: %v; looked at the store %d times", err, r.opened-before)
	}
	if err := os.Remove(need.Path); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(need); err != nil {
		t.Fatal(err)
	}
	r.holds(need.Path, some(7))
}

// TestStaysAsItIs: neither a newer version nor a guest that wrote to its disk makes a file be replaced.
func TestStaysAsItIs(t *testing.T) {
	r := newRoom(t)
	r.publish("a", some(1))
	need := placement.Need{Name: "a", Path: r.path("a.raw")}
	if err := r.prepare(need); err != nil {
		t.Fatal(err)
	}
	newer := r.publish("a", some(2))
	if err := r.prepare(need); err != nil {
		t.Error(err)
	}
	r.holds(need.Path, some(1))
	exact := need
	exact.ID = newer.String()
	if err := r.prepare(exact); !errors.Is(err, ErrOccupied) {
		t.Errorf("another version at the path: %v", err)
	}
	r.holds(need.Path, some(1))
	if err := os.WriteFile(need.Path, []byte("the guest's own"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(need); err != nil {
		t.Error(err)
	}
	r.holds(need.Path, []byte("the guest's own"))
	if _, ok := r.hook.Exposed(need.Path); ok {
		t.Error("what was changed is said to be exposed")
	}
	exact.Path = r.path("exact.raw")
	if err := r.prepare(exact); err != nil {
		t.Error(err)
	}
	r.holds(exact.Path, some(2))
}

// TestAdopts: what is at the path already is taken if it is the file, as after a crash before it was noted, and refused
// and left alone if it is not.
func TestAdopts(t *testing.T) {
	r := newRoom(t)
	r.publish("a", some(1))
	need := placement.Need{Name: "a", Path: r.path("a.raw")}
	if err := os.WriteFile(need.Path, some(1), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(need); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.hook.Exposed(need.Path); !ok {
		t.Error("it is not known what was found")
	}
	other := some(1)
	other[len(other)-1]++
	for what, make := range map[string]func(path string) error{
		"another byte":   func(p string) error { return os.WriteFile(p, other, 0o644) },
		"another length": func(p string) error { return os.WriteFile(p, []byte("x"), 0o644) },
		"a directory":    func(p string) error { return os.Mkdir(p, 0o755) },
		"a link":         func(p string) error { return os.Symlink(need.Path, p) },
	} {
		need := placement.Need{Name: "a", Path: r.path(what)}
		if err := make(need.Path); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Lstat(need.Path)
		if err := r.prepare(need); !errors.Is(err, ErrOccupied) {
			t.Errorf("%s: %v", what, err)
		}
		if after, err := os.Lstat(need.Path); err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("%s was touched", what)
		}
	}
}

// TestRefuses names the file, and leaves nothing behind.
func TestRefuses(t *testing.T) {
	r := newRoom(t)
	id := r.publish("gone", some(1))
	if err := r.store.Remove(id); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		need placement.Need
		want error
	}{
		{placement.Need{Name: "nothing"}, ErrNoSuchFile},
		{placement.Need{Name: "gone", ID: content.Sum(nil).String()}, ErrNoSuchFile},
		{placement.Need{Name: "gone", ID: "b3:x"}, ErrNoSuchFile},
		{placement.Need{Name: "gone", ID: content.Digest{}.String()}, ErrNoSuchFile},
		{placement.Need{Name: "gone", Path: r.path("gone.raw")}, swarm.ErrNoHolder},
	} {
		err := r.prepare(c.need)
		if !errors.Is(err, c.want) || !bytes.Contains([]byte(err.Error()), []byte(c.need.Name)) {
			t.Errorf("%+v: %v, want %v", c.need, err, c.want)
		}
	}
	if _, err := os.Lstat(r.path("gone.raw")); err == nil {
		t.Error("something is at the path")
	}
}

// TestOneAtATime: two starts that need the same path do not fill it twice, and the one that waits gives up with its
// context.
func TestOneAtATime(t *testing.T) {
	r := newRoom(t)
	r.publish("a", some(1))
	need := placement.Need{Name: "a", Path: r.path("a.raw")}
	done, err := r.hook.claim(t.Context(), need.Path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := r.hook.Prepare(ctx, []placement.Need{need}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside another: %v", err)
	}
	both := make(chan error, 2)
	for range 2 {
		go func() { both <- r.prepare(need) }()
	}
	done()
	for range 2 {
		if err := <-both; err != nil {
			t.Error(err)
		}
	}
	r.holds(need.Path, some(1))
}

// TestDamagedJournal is said, with what to do.
func TestDamagedJournal(t *testing.T) {
	r := newRoom(t)
	if err := os.WriteFile(r.path("exposed.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{FS: disk.OS{}, Dir: r.dir}); err == nil {
		t.Error("a damaged journal is read")
	}
}
