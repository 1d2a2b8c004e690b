package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// TestHandedOutToItsOwnerAlone: unless the caller asks for more, also where this process' umask would give more, or
// less.
func TestHandedOutToItsOwnerAlone(t *testing.T) {
	s := open(t, t.TempDir())
	f := put(t, s, random(1, 2*testChunk))
	for _, umask := range []int{0, 0o022, 0o377} {
		old := syscall.Umask(umask)
		defer syscall.Umask(old)
		for i, tt := range []struct {
			o    ExportOptions
			want fs.FileMode
		}{
			{ExportOptions{}, 0o600}, {ExportOptions{Mode: Copy}, 0o600}, {ExportOptions{Perm: new(fs.FileMode(0o400))}, 0o400},
			{ExportOptions{Perm: new(fs.FileMode(0o755))}, 0o755}, {ExportOptions{Perm: new(fs.FileMode(0))}, 0},
			{ExportOptions{Mode: HardLink}, 0o400}, {ExportOptions{Mode: HardLink, Perm: new(fs.FileMode(0o444))}, 0o444},
		} {
			out := filepath.Join(t.TempDir(), "out")
			must(t, f.Export(t.Context(), out, tt.o, nil))
			if st, err := os.Stat(out); err != nil || st.Mode().Perm() != tt.want {
				t.Errorf("umask %o, case %d: mode %v, want %v (%v)", umask, i, st.Mode(), tt.want, err)
			}
		}
		syscall.Umask(old)
	}
	if os.Getuid() != 0 {
		return
	}
	out := filepath.Join(t.TempDir(), "out")
	must(t, f.Export(t.Context(), out, ExportOptions{Owner: new(123), Group: new(456)}, nil))
	st, err := os.Stat(out)
	must(t, err)
	if sys := st.Sys().(*syscall.Stat_t); sys.Uid != 123 || sys.Gid != 456 || st.Mode().Perm() != 0o600 {
		t.Errorf("belongs to %d:%d, mode %v", sys.Uid, sys.Gid, st.Mode())
	}
}

// TestDestinationIsBlamed: what a file system has against a destination is not called its existence, nor unexpected.
func TestDestinationIsBlamed(t *testing.T) {
	s := open(t, t.TempDir())
	f := put(t, s, random(1, testChunk))
	top := t.TempDir()
	must(t, errors.Join(os.Symlink("loop", filepath.Join(top, "loop")), os.WriteFile(filepath.Join(top, "file"), nil, 0o600)))
	for mode := Auto; mode <= Copy; mode++ {
		for name, want := range map[string]error{
			strings.Repeat("n", 256): syscall.ENAMETOOLONG, "file/x": syscall.ENOTDIR, "loop/x": syscall.ELOOP, "no/x": syscall.ENOENT,
		} {
			err := f.Export(t.Context(), disk.Join(top, name), ExportOptions{Mode: mode}, nil)
			if !errors.Is(err, ErrDest) || !errors.Is(err, want) || reason.Of(err) != reason.DestUnusable {
				t.Errorf("mode %d, %.20s: %v", mode, name, err)
			}
		}
		if err := f.Export(t.Context(), filepath.Join(top, "loop"), ExportOptions{Mode: mode}, nil); reason.Of(err) != reason.DestExists {
			t.Errorf("mode %d, a link is there: %v", mode, err)
		}
	}
	// A link to a directory, and up from where it leads.
	must(t, errors.Join(os.MkdirAll(filepath.Join(top, "real/deep"), 0o700), os.Symlink("real/deep", filepath.Join(top, "link"))))
	must(t, f.Export(t.Context(), top+"/link/../x", ExportOptions{}, nil))
	wantNames(t, filepath.Join(top, "real"), "deep", "x")
}

// namelessFS is a file system on which every file has a name, such as that of NFS.
type namelessFS struct{ disk.FS }

func (namelessFS) CreateUnnamed(string, fs.FileMode) (disk.File, error) {
	return nil, disk.ErrNoUnnamed
}

// TestPartsOfAKilledExportGo: where a file under way needs a name, that name is gone after an error at any step, and
// after a kill at any step with the next start.
func TestPartsOfAKilledExportGo(t *testing.T) {
	p := random(1, 3*testChunk)
	for step := 1; ; step++ {
		for _, fault := range []error{disktest.ErrKilled, syscall.EIO} {
			root := t.TempDir()
			dir, out := filepath.Join(root, "store"), filepath.Join(root, "out")
			must(t, os.Mkdir(out, 0o700))
			under, err := disktest.NewFault(disk.OS{}, filepath.Join(root, "attic"), 0)
			must(t, err)
			s, err := Open(Options{Dir: dir, FS: namelessFS{under}})
			must(t, err)
			f := put(t, s, p)
			under.FailAt(step, fault)
			failed := f.Export(t.Context(), filepath.Join(out, "x"), ExportOptions{}, nil)
			if errors.Is(fault, disktest.ErrKilled) {
				s.Close()
				s = open(t, dir)
			}
			whole := failed == nil
			entries, err := os.ReadDir(out)
			must(t, err)
			for _, e := range entries {
				got, err := os.ReadFile(filepath.Join(out, e.Name()))
				if e.Name() != "x" || err != nil || !slices.Equal(got, p) {
					t.Errorf("step %d, %v (%v): %s is left", step, fault, failed, e.Name())
				}
				whole = false
			}
			if whole {
				t.Errorf("step %d, %v: exported, and nothing is there", step, fault)
			}
			left, _ := os.ReadDir(filepath.Join(dir, "parts"))
			if failed == nil && len(left) > 0 {
				t.Errorf("step %d: the note of a file that was made is left", step)
			}
			s.Close()
			if failed == nil {
				return
			}
		}
	}
}

// TestSweepTouchesNothingElse: a note that is torn, or names what the store has not made, removes nothing; one of a
// file system that is not mounted is kept for a while.
func TestSweepTouchesNothingElse(t *testing.T) {
	root := t.TempDir()
	dir, other := filepath.Join(root, "store"), filepath.Join(root, "precious")
	must(t, open(t, dir).Close())
	must(t, os.WriteFile(other, nil, 0o600))
	parts := filepath.Join(dir, "parts")
	must(t, os.MkdirAll(parts, 0o700))
	note := func(id, path string, age time.Duration) {
		must(t, os.WriteFile(filepath.Join(parts, id), []byte(path), 0o600))
		must(t, os.Chtimes(filepath.Join(parts, id), time.Time{}, time.Now().Add(-age)))
	}
	note("A", other, 0)
	note("B", "", 0)
	note("C", filepath.Join(root, "unmounted", hiddenName("C")), 0)
	note("D", filepath.Join(root, "unmounted", hiddenName("D")), 2*keepParts)
	note("E", filepath.Join(root, hiddenName("E")), 0)
	must(t, os.WriteFile(filepath.Join(root, hiddenName("E")), nil, 0o600))
	open(t, dir)
	wantNames(t, root, "precious", "store")
	wantNames(t, parts, "C")
}

// TestRoomIsOfTheDestinationsDisk: a destination that is a mount point's only name is on that disk, and not on the one
// of the directory above.
func TestRoomIsOfTheDestinationsDisk(t *testing.T) {
	m := disktest.NewMemory(0)
	must(t, m.MkdirAll("/full/roomy", 0o700))
	s := open(t, "/store", func(o *Options) { o.FS = fullBut{m, "/full/roomy"} })
	f := put(t, s, random(1, testChunk))
	must(t, f.Export(t.Context(), "/full/roomy/x", ExportOptions{}, nil))
	if err := f.Export(t.Context(), "/full/x", ExportOptions{}, nil); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "the disk of /full:") {
		t.Errorf("on a full disk: %v", err)
	}
}

// fullBut is a file system of which a directory is another disk, and all else is full.
type fullBut struct {
	disk.FS
	roomy string
}

func (f fullBut) Space(path string) (free, total int64, err error) {
	if path == f.roomy || path == "/store" {
		return f.FS.Space(path)
	}
	return 0, 1 << 30, nil
}

// TestWhatIsHereNeedsNoRoom: neither to be handed out nor to be published again, whatever the quota or the disk says.
func TestWhatIsHereNeedsNoRoom(t *testing.T) {
	for name, shrink := range map[string]func(s *Store, fault *disktest.Fault){
		"quota": func(s *Store, _ *disktest.Fault) { s.SetQuota(Quota{Bytes: 1}) },
		"disk": func(_ *Store, fault *disktest.Fault) {
			fault.OnOp(func(op disktest.Op) error {
				if slices.Contains([]string{"write", "create", "mkdir"}, op.Name) && strings.HasPrefix(op.Path, "/store") || op.Name == "open" && op.N > 0 && strings.HasPrefix(op.Path, "/store") {
					return disktest.NoSpace()
				}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := disktest.NewMemory(0)
			must(t, m.MkdirAll("/out", 0o700))
			fault, err := disktest.NewFault(m, "/attic", 1)
			must(t, err)
			s := open(t, "/store", func(o *Options) { o.FS = fault })
			p := random(1, 3*testChunk)
			f := put(t, s, p)
			shrink(s, fault)
			must(t, s.MakeRoom(t.Context(), 0))
			must(t, f.Export(t.Context(), "/out/x", ExportOptions{}, nil))
			if g := put(t, s, p); g != f {
				t.Error("published again it is another file")
			}
			if err := importError(t, s, random(2, testChunk)); !errors.Is(err, ErrNoSpace) {
				t.Errorf("something else is published: %v", err)
			}
		})
	}
}

// TestSizesThatAreNoSizes: files that have more or less than they say are read to their end; an empty one is empty.
func TestSizesThatAreNoSizes(t *testing.T) {
	s := open(t, t.TempDir())
	for _, path := range []string{"/proc/cpuinfo", "/proc/mounts", "/proc/sys/kernel/hostname", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		src, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("there is no %s", path)
			continue
		}
		must(t, err)
		defer src.Close()
		want, err := os.ReadFile(path)
		must(t, err)
		f, err := s.Import(t.Context(), src, ImportOptions{})
		must(t, err)
		if f.Manifest().Size() == 0 || path != "/proc/cpuinfo" && f.Manifest().Size() != int64(len(want)) { // its clocks change
			t.Errorf("%s has %d bytes, and was published with %d", path, len(want), f.Manifest().Size())
		}
		out := filepath.Join(t.TempDir(), "out")
		must(t, f.Export(t.Context(), out, ExportOptions{}, nil))
		if got, err := os.ReadFile(out); err != nil || path != "/proc/cpuinfo" && string(got) != string(want) {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if u := s.Usage(); u.Arriving != 0 {
		t.Errorf("%d bytes are still said to arrive", u.Arriving)
	}
	src, err := os.Open("/proc/self/mem") // says 0, and cannot be read at its beginning
	must(t, err)
	defer src.Close()
	if _, err := s.Import(t.Context(), src, ImportOptions{}); reason.Of(err) != reason.SourceUnreadable {
		t.Errorf("what cannot be read: %v", err)
	}
}

// TestStreams: what is read only once becomes the same content as a file with its bytes, holes included.
func TestStreams(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, n := range []int{0, 1, testChunk, pourBytes, pourBytes + 1, 3*pourBytes + testChunk/2} {
		p := random(uint64(n), n)
		if n > 2*pourBytes {
			clear(p[testChunk : testChunk+pourBytes])
		}
		want := manifestOf(t, p)
		f, err := s.ImportStream(t.Context(), "a stream", trickle{p: p}.reader(), ImportOptions{ChunkSize: testChunk})
		must(t, err)
		if f.ID() != want.ID() {
			t.Errorf("%d bytes: %s, want %s", n, f.ID(), want.ID())
		}
		wantContent(t, f, p)
		if u := s.Usage(); u.Arriving != 0 {
			t.Errorf("%d bytes: %d are still said to arrive", n, u.Arriving)
		}
	}
	cut := errors.New("the caller is gone")
	if _, err := s.ImportStream(t.Context(), "a stream", trickle{p: random(9, 3*testChunk), end: cut}.reader(), ImportOptions{}); !errors.Is(err, cut) {
		t.Errorf("a stream that breaks off: %v", err)
	}
	if _, err := s.ImportStream(t.Context(), "a stream", trickle{p: random(9, 3*testChunk), end: io.ErrUnexpectedEOF}.reader(), ImportOptions{}); !errors.Is(err, ErrUnreadable) {
		t.Errorf("a stream that was cut off: %v", err)
	}
	s.SetQuota(Quota{Bytes: 1})
	if _, err := s.ImportStream(t.Context(), "a stream", trickle{p: random(9, 3*testChunk)}.reader(), ImportOptions{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a stream without room: %v", err)
	}
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
}

// trickle is bytes that come in odd pieces, and how they end.
type trickle struct {
	p   []byte
	end error
}

func (t trickle) reader() *trickle { return &t }

func (t *trickle) Read(p []byte) (int, error) {
	if len(t.p) == 0 {
		if t.end != nil {
			return 0, t.end
		}
		return 0, io.EOF
	}
	n := copy(p, t.p[:min(len(t.p), 12345)])
	t.p = t.p[n:]
	return n, nil
}
