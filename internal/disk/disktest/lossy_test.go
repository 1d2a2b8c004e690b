package disktest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// kill ends the life of a Lossy as kill -9 does, and begins another.
func kill(under disk.FS) *Lossy { return NewLossy(under) }

func TestLossyLosesWhatIsNotSynced(t *testing.T) {
	for _, base := range bases {
		t.Run(base.name, func(t *testing.T) {
			under, dir := base.make(t)
			path := filepath.Join(dir, "f")
			l := NewLossy(under)
			w := write(t, l, path, bytes.Repeat([]byte("a"), 5000))
			must(t, w.Sync())
			_, err := w.WriteAt(bytes.Repeat([]byte("b"), 5000), 2500)
			must(t, err)
			r, err := l.OpenFile(path, os.O_RDONLY, 0)
			must(t, err, w.Close()) // closing saves nothing
			both := append(bytes.Repeat([]byte("a"), 2500), bytes.Repeat([]byte("b"), 5000)...)
			want(t, l, path, both)
			got := make([]byte, 7500)
			if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, both) {
				t.Errorf("an open reader sees something else (%v)", err)
			}
			must(t, r.Close(), l.Rename(path, path+"2"))
			want(t, l, path+"2", both)

			l = kill(under)
			want(t, l, path+"2", bytes.Repeat([]byte("a"), 5000))
			w, err = l.OpenFile(path+"2", os.O_RDWR, 0)
			must(t, err)
			_, err = w.WriteAt([]byte("c"), 4999)
			must(t, err, w.Sync())
			want(t, kill(under), path+"2", append(bytes.Repeat([]byte("a"), 4999), 'c'))
			must(t, w.Close())
		})
	}
}

// TestLossyForgets: a removed file takes no memory, however much of it was not synced.
func TestLossyForgets(t *testing.T) {
	under, dir := disk.OS{}, t.TempDir()
	l := NewLossy(under)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, path := range []string{a, b} {
		w, err := l.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		_, err = w.WriteAt([]byte("x"), 0)
		must(t, err, w.Close())
	}
	must(t, l.Rename(a, b))
	want(t, l, b, []byte("x"))
	must(t, l.RemoveAll(b))
	if len(l.inodes) != 0 || l.bytes != 0 {
		t.Errorf("%d inodes, %d bytes are left", len(l.inodes), l.bytes)
	}
}

// TestLossyWritesBack: its memory is bounded.
func TestLossyWritesBack(t *testing.T) {
	m := NewMemory(0)
	l := NewLossy(m)
	w := write(t, l, "/f", nil)
	l.bytes = maxUnsynced // as if others had it
	_, err := w.WriteAt([]byte("x"), 0)
	must(t, err)
	want(t, m, "/f", []byte("x"))
	l.bytes -= maxUnsynced
	if l.bytes != 0 {
		t.Errorf("%d bytes are counted", l.bytes)
	}
}
