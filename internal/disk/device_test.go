package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loopDevice makes a block device of a file.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a loop device needs root")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", path).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return path
}

// TestDeviceTellsOfWrites: those that are on the disk, and those that are still in memory.
func TestDeviceTellsOfWrites(t *testing.T) {
	path := loopDevice(t, 8<<20)
	for name, write := range map[string]func(f *os.File) error{
		"none":      func(*os.File) error { return nil },
		"in memory": func(f *os.File) error { _, err := f.WriteAt([]byte(name()), 4096); return err },
		"synced":    func(f *os.File) error { _, err := f.WriteAt([]byte(name()), 8192); return errors.Join(err, f.Sync()) },
	} {
		d, err := ReadDevice(path, false)
		if err != nil {
			t.Fatal(err)
		}
		if d.Size() != 8<<20 {
			t.Errorf("%d bytes", d.Size())
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		if changed, err := d.Changed(); err != nil || changed != (name != "none") {
			t.Errorf("written %s: changed %v, %v", name, changed, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func name() string { return "written by a test" }

// TestDeviceUsers: who has a device open, and how; a file is none.
func TestDeviceUsers(t *testing.T) {
	path := loopDevice(t, 8<<20)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for how, writing := range map[string]bool{"<": false, "<>": true} {
		cmd := exec.Command("sh", "-c", "exec 9"+how+path+"; echo; read _")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // it has the device open
			t.Fatal(err)
		}
		users, err := DeviceUsers(link)
		if err != nil || len(users) != 1 || users[0].PID != cmd.Process.Pid || users[0].Writing != writing || users[0].Name != "sh" {
			t.Errorf("open by %s: %v, %v", how, users, err)
		}
		if err := errors.Join(in.Close(), ignoreExit(cmd.Wait())); err != nil {
			t.Fatal(err)
		}
	}
	if users, err := DeviceUsers(path); err != nil || len(users) > 0 {
		t.Errorf("open by nobody: %v, %v", users, err)
	}
	if _, err := DeviceUsers(os.Args[0]); !errors.Is(err, ErrNotDevice) {
		t.Errorf("a file: %v", err)
	}
	if _, _, err := (OS{}).OpenDevice(os.Args[0], os.O_RDONLY); !errors.Is(err, ErrNotDevice) {
		t.Errorf("a file: %v", err)
	}
	if _, _, err := (OS{}).OpenDevice("/dev/null", os.O_RDONLY); !errors.Is(err, ErrNotDevice) {
		t.Errorf("a character device: %v", err)
	}
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// TestDeviceIsTakenOnce: by one who wants it for himself.
func TestDeviceIsTakenOnce(t *testing.T) {
	path := loopDevice(t, 8<<20)
	f, size, err := (OS{}).OpenDevice(path, os.O_RDWR)
	if err != nil || size != 8<<20 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	if _, err := ReadDevice(path, false); !errors.Is(err, ErrBusy) {
		t.Errorf("while it is written over: %v", err)
	}
	d, err := ReadDevice(path, true)
	if err != nil {
		t.Fatalf("shared: %v", err)
	}
	defer d.Close()
	old := bytes.Repeat([]byte{7}, 1<<20)
	if _, err := f.WriteAt(old, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Zero(4096, 1<<19), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	clear(old[4096 : 4096+1<<19])
	got := make([]byte, 1<<20)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, old) {
		t.Errorf("not what was written, or not zeros (%v)", err)
	}
}
