package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What every file system has to do is tested in package disktest, over OS as well.

// TestRenameNewStandIn is for file systems without RENAME_NOREPLACE.
func TestRenameNewStandIn(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(to, "y"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := renameNew(from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a directory: %v", err)
	}
	a, b := filepath.Join(from, "a"), filepath.Join(from, "b")
	if err := errors.Join(os.WriteFile(a, []byte("a"), 0o600), os.WriteFile(b, []byte("b"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := renameNew(a, b); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if p, err := os.ReadFile(b); err != nil || string(p) != "b" {
		t.Errorf("what was there holds %q, %v", p, err)
	}
}

func TestReadFileRefusesTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(OS{}, path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(OS{}, path, 4); !errors.Is(err, ErrTooLarge) {
		t.Errorf("limit 4: %v", err)
	}
	if p, err := ReadFile(OS{}, path, 5); err != nil || string(p) != "12345" {
		t.Errorf("limit 5: %q, %v", p, err)
	}
}

func TestNoSpaceIsRecognised(t *testing.T) {
	full, err := OS{}.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	if _, err := full.WriteAt([]byte("x"), 0); !errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write to a full disk: %v", err)
	}
}

// TestLockEndsWithClose: a copy of the descriptor, as a child process has between its fork and its exec, does not keep
// the lock.
func TestLockEndsWithClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := OS{}.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := unix.Dup(int(l.(interface{ Fd() uintptr }).Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(copied)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OS{}.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
