package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Files of every awkward size and with awkward names come back as they were.
func TestRoundTrips(t *testing.T) {
	l := newLab(t, 2, "")
	const chunk = 256 << 10
	for i, size := range []int64{0, 1, chunk - 1, chunk, chunk + 1, 64<<20 + 1} {
		file := l.random(fmt.Sprint(size), size, byte(i))
		l.hosts[0].must("publish", file, fmt.Sprintf("sizes/%d", size))
		out := l.out(fmt.Sprint(size))
		l.hosts[1].must("pull", fmt.Sprintf("sizes/%d", size), out)
		l.same(file, out)
	}
	name := "Bilder/größte Datei für José 東京 🐘.raw"
	file := l.random("named", 12345, 99)
	l.hosts[0].must("publish", file, name)
	out := l.out("named")
	l.hosts[1].must("pull", name, out)
	l.same(file, out)
	var files struct {
		Files []struct {
			Name string `json:"name"`
		} `json:"files"`
	}
	l.hosts[1].json(&files, "ls", "Bilder/")
	if len(files.Files) != 1 || files.Files[0].Name != name {
		t.Errorf("ls says %+v, want %q", files, name)
	}
}

// A 20 GiB sparse file with 50 MiB of data moves its data, and is as sparse at the other end.
func TestSparseFile(t *testing.T) {
	l := newLab(t, 2, "")
	const size, data = 20 << 30, 50 << 20
	path := l.random("sparse", 0, 0)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	l.check(err)
	l.check(f.Truncate(size))
	block := make([]byte, 1<<20)
	for i := range int64(data >> 20) {
		copy(block, bytes.Repeat([]byte{byte(i + 1)}, len(block)))
		for j := 0; j < len(block); j += 4096 { // no two chunks alike
			block[j], block[j+1], block[j+2] = byte(i), byte(j>>12), byte(j>>20)
		}
		_, err := f.WriteAt(block, i*(size/(data>>20))&^(1<<20-1))
		l.check(err)
	}
	l.check(f.Close())

	start := time.Now()
	l.hosts[0].must("publish", path, "sparse", "--replicas", "1")
	t.Logf("published 20 GiB with 50 MiB of data in %v", time.Since(start).Round(time.Millisecond))
	out := l.out("sparse")
	l.hosts[1].must("pull", "sparse", out)
	moved := l.hosts[0].metric(receivedBytes) + l.hosts[1].metric(receivedBytes)
	t.Logf("moved %.1f MiB, the copy takes %.1f MiB on disk", moved/(1<<20), float64(l.allocated(out))/(1<<20))
	if moved > data*1.02 {
		t.Errorf("moved %.0f bytes for %d of data", moved, data)
	}
	if a := l.allocated(out); a > data*1.02 {
		t.Errorf("the copy takes %d bytes on disk for %d of data", a, data)
	}
	fi, err := os.Stat(out)
	l.check(err)
	if fi.Size() != size {
		t.Errorf("the copy has %d bytes, want %d", fi.Size(), int64(size))
	}
	l.sameData(path, out, data)
}

// sameData compares two sparse files where the first has data.
func (l *lab) sameData(a, b string, data int64) {
	l.t.Helper()
	fa, err := os.Open(a)
	l.check(err)
	defer fa.Close()
	fb, err := os.Open(b)
	l.check(err)
	defer fb.Close()
	const seekData = 3 // SEEK_DATA of lseek(2)
	pa, pb := make([]byte, 1<<20), make([]byte, 1<<20)
	compared := int64(0)
	for off := int64(0); compared < data; {
		off, err = fa.Seek(off, seekData)
		l.check(err)
		n, err := fa.ReadAt(pa, off)
		l.check(err)
		_, err = fb.ReadAt(pb[:n], off)
		l.check(err)
		if !bytes.Equal(pa[:n], pb[:n]) {
			l.t.Fatalf("the files differ after byte %d", off)
		}
		off, compared = off+int64(n), compared+int64(n)
	}
}

// A second version of which one chunk in a hundred changed moves one chunk in a hundred.
func TestSecondVersionMovesWhatChanged(t *testing.T) {
	l := newLab(t, 2, "")
	const size, chunk = 1 << 30, 256 << 10
	file := l.random("image", size, 60)
	l.hosts[0].must("publish", file, "image", "--replicas", "all")
	before := l.hosts[1].metric(receivedBytes)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	l.check(err)
	changed := 0
	for i := 7; i < size/chunk; i += 100 {
		_, err := f.WriteAt([]byte("changed"), int64(i)*chunk+1234)
		l.check(err)
		changed++
	}
	l.check(f.Close())
	l.hosts[0].must("publish", file, "image", "--replicas", "all")
	moved := l.hosts[1].metric(receivedBytes) - before
	t.Logf("%d of %d chunks changed, moved %.2f MiB of %d MiB (%.2f %%)", changed, size/chunk, moved/(1<<20), size>>20, 100*moved/size)
	if want := float64(changed * chunk); moved < want || moved > 1.02*want {
		t.Errorf("moved %.0f bytes, want %.0f", moved, want)
	}
	out := l.out("image")
	l.hosts[1].must("pull", "image", out)
	l.same(file, out)
	var show struct {
		Versions []struct {
			ID string `json:"id"`
		} `json:"versions"`
	}
	l.hosts[1].json(&show, "show", "image")
	if len(show.Versions) != 2 {
		t.Fatalf("%d versions, want 2", len(show.Versions))
	}
	old := l.out("old")
	l.hosts[1].must("pull", "image@"+show.Versions[1].ID, old)
	if l.sum(old) == l.sum(file) {
		t.Error("the old version is the new one")
	}
	l.hosts[1].must("rm", "image")
	l.await("the store is empty once nothing refers to it", func() bool {
		left, err := filepath.Glob(filepath.Join(l.hosts[1].data, "store", "files", "*"))
		l.check(err)
		return len(left) == 0
	})
}

// A host that was told to hold a file holds it, and is watched doing so.
func TestDistribute(t *testing.T) {
	l := newLab(t, 4, "")
	file := l.random("image", 80<<20, 70)
	l.hosts[0].must("publish", file, "image", "--replicas", "1")
	var done struct {
		Done  bool `json:"done"`
		Hosts []struct {
			Host  string `json:"host"`
			State string `json:"state"`
		} `json:"hosts"`
	}
	l.hosts[0].json(&done, "distribute", "image", "--to", "all", "--watch")
	if !done.Done || len(done.Hosts) != 4 {
		t.Fatalf("distribute ended with %+v", done)
	}
	for _, h := range done.Hosts {
		if h.State != "complete" {
			t.Errorf("%s is %s", h.Host, h.State)
		}
	}
	for _, h := range l.hosts[1:] {
		l.hosts[0].signal(19) // SIGSTOP: what they have they must have themselves
		out := l.out(h.name)
		r := h.run("pull", "image", out)
		l.hosts[0].signal(18) // SIGCONT
		if r.code != 0 {
			t.Fatalf("pull at %s: %s", h.name, r.stderr)
		}
		l.same(file, out)
	}
	// One that joins later gets it too.
	late := l.newHost("late", filepath.Base(l.hosts[3].addr[:len(l.hosts[3].addr)-len("4:7117")]+"9:7117"))
	late.join(l.hosts[0])
	l.await("the late host holds it", func() bool { return l.copies(l.hosts[0], "image")["late"] == 2 })
}

// A full disk: a clear error, and nothing lost or left behind.
func TestFullDisk(t *testing.T) {
	l := newLab(t, 2, "")
	small := l.newHost("small", l.hosts[1].addr[:len(l.hosts[1].addr)-len("2:7117")]+"9:7117")
	l.check(os.MkdirAll(small.data, 0o700))
	l.mount("tmpfs", small.data, "size=80m")
	small.join(l.hosts[0])
	kept := l.random("kept", 20<<20, 80)
	small.must("publish", kept, "kept", "--replicas", "1")
	big := l.random("big", 100<<20, 81)
	r := small.run("publish", big, "big", "--replicas", "1")
	if r.code != 17 {
		t.Errorf("publish on a full disk: exit code %d: %s", r.code, r.stderr)
	}
	t.Logf("publish: %s", r.stderr)
	l.hosts[0].must("publish", big, "big", "--replicas", "1", "--wait", "committed")
	r = small.run("pull", "big", l.out("big"))
	if r.code != 17 {
		t.Errorf("pull on a full disk: exit code %d: %s", r.code, r.stderr)
	}
	t.Logf("pull: %s", r.stderr)
	out := l.out("kept")
	small.must("pull", "kept", out)
	l.same(kept, out)
	small.kill()
	small.start()
	small.must("verify")
}
