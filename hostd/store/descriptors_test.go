package store

import (
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// TestIdleFilesAreGivenUp: where no descriptor is left, the files that nobody uses are closed for whoever needs one;
// and where there are none to close, the error says what is lacking.
func TestIdleFilesAreGivenUp(t *testing.T) {
	root := t.TempDir()
	fault, err := disktest.NewFault(disk.OS{}, filepath.Join(root, "attic"), 0)
	must(t, err)
	s := open(t, filepath.Join(root, "store"), func(o *Options) { o.FS = fault })
	var files []*File
	var contents [][]byte
	for i := range 4 {
		contents = append(contents, random(uint64(i), 2*testChunk))
		files = append(files, put(t, s, contents[i]))
	}
	fetched := create(t, s, random(9, testChunk))
	for _, f := range files {
		_, err := f.ReadChunk(0, nil) // opens it, and leaves it open
		must(t, err)
	}
	lacking := 0
	fault.OnOp(func(op disktest.Op) error { // all descriptors are those of data files
		if (op.Name == "open" || op.Name == "create" || op.Name == "syncdir" || op.Name == "readdir") && s.handles.count() > 1 {
			lacking++
			return syscall.EMFILE
		}
		return nil
	})
	for name, do := range map[string]func() error{
		"write": func() error { return fetched.WriteChunk(0, random(9, testChunk)) },
		"import": func() error {
			_, err := s.Import(t.Context(), source(t, random(5, testChunk)), ImportOptions{})
			return err
		},
		"export": func() error { return files[0].Export(t.Context(), filepath.Join(root, "out"), ExportOptions{}, nil) },
		"open": func() error {
			f, err := files[1].Open(t.Context(), bitsOf(files[1], 0))
			if err == nil {
				err = f.Close()
			}
			return err
		},
	} {
		for _, f := range files {
			_, err := f.ReadChunk(0, nil)
			must(t, err)
		}
		before := lacking
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if lacking == before {
			t.Errorf("%s needed no descriptor", name)
		}
	}
	fault.OnOp(func(op disktest.Op) error {
		if op.Name == "open" {
			return syscall.EMFILE
		}
		return nil
	})
	s.Relieve()
	if _, err := files[2].ReadChunk(0, nil); reason.Of(err) != reason.NoDescriptors {
		t.Errorf("with nothing to give up: %v", err)
	}
	fault.OnOp(nil)
	for i, f := range files {
		wantContent(t, f, contents[i])
	}
}

// TestLimitIsTakenIntoAccount: of few descriptors a store keeps few files open.
func TestLimitIsTakenIntoAccount(t *testing.T) {
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) }()
	for limit, want := range map[uint64]int{1 << 19: maxOpenFiles, 1024: maxOpenFiles, 400: 100, 20: minOpenFiles} {
		if limit > before.Max {
			continue
		}
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: before.Max}))
		if got := openFiles(); got != want {
			t.Errorf("of %d descriptors %d are for files, want %d", limit, got, want)
		}
	}
}
