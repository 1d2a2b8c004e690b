package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/content"
)

// OpenDevice implements FS. The kernel counts who has a device for himself: file systems, volume groups, arrays. A
// program that only writes to it is not among them; see DeviceUsers.
func (OS) OpenDevice(path string, flag int) (File, int64, error) {
	f, size, err := openDevice(path, flag|unix.O_EXCL)
	if err != nil {
		return nil, 0, err
	}
	return &osFile{File: f}, size, nil
}

func openDevice(path string, flag int) (*os.File, int64, error) {
	st, err := os.Stat(path) // before the device is touched: to open a tape may rewind it
	if err != nil {
		return nil, 0, err
	}
	if !IsDevice(st) {
		return nil, 0, &os.PathError{Op: "open", Path: path, Err: ErrNotDevice}
	}
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// IsDevice reports whether a file is a block device.
func IsDevice(st fs.FileInfo) bool {
	return st.Mode().Type() == fs.ModeDevice // a character device has one more bit
}

// Zero implements File by fallocate, which of a block device promises zeros. To give the place back comes first.
func (f *osFile) Zero(off, n int64) error {
	err := f.PunchHole(off, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		err = f.control("zero", func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		})
	}
	return err
}

// Device is a block device that is read from one end to the other.
type Device struct {
	*os.File
	size    int64
	written uint64 // what the kernel had counted at the beginning; see counted
	watched bool
}

// ReadDevice opens a block device for reading. Unless it is shared, nobody else in the kernel may have it for himself
// (ErrBusy), and Changed tells whether it was written to.
func ReadDevice(path string, shared bool) (*Device, error) {
	flag := os.O_RDONLY
	if !shared {
		flag |= unix.O_EXCL
	}
	f, size, err := openDevice(path, flag)
	if err != nil {
		return nil, err
	}
	d := &Device{File: f, size: size, watched: !shared}
	// What the cache has may be older than what another host, or a program that passes it by, has written.
	err = d.Sync()
	if err == nil {
		err = (&osFile{File: f}).control("fadvise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
	}
	if err == nil && d.watched {
		d.written, err = d.counted()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// Size returns the device's length in bytes.
func (d *Device) Size() int64 { return d.size }

// Extents says that there may be data everywhere: a device tells of no holes.
func (d *Device) Extents(size, _ int64) iter.Seq2[content.Extent, error] {
	return func(yield func(content.Extent, error) bool) {
		if size > 0 {
			yield(content.Extent{N: size}, nil)
		}
	}
}

// Changed reports whether anybody has written to the device since it was opened.
func (d *Device) Changed() (bool, error) {
	if !d.watched {
		return false, nil
	}
	if err := d.Sync(); err != nil {
		return false, err
	}
	now, err := d.counted()
	return now != d.written, err
}

// counted returns how many sectors the kernel has written to the device, or given back, since it started.
func (d *Device) counted() (uint64, error) {
	st, err := d.Stat()
	if err != nil {
		return 0, err
	}
	path := filepath.Join(sysDevice(rdevOf(st)), "stat")
	p, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(p))
	var sum uint64
	for _, i := range []int{6, 13} { // Documentation/block/stat.rst: write sectors, discard sectors
		if i >= len(fields) {
			continue // an older kernel does not count them
		}
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", path, err)
		}
		sum += n
	}
	return sum, nil
}

func rdevOf(st fs.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Rdev)
	}
	return 0
}

func sysDevice(rdev uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

// User is a program that has a block device open.
type User struct {
	Name    string // of the program
	PID     int
	Writing bool
}

// String implements fmt.Stringer.
func (u User) String() string {
	if u.PID == 0 {
		return u.Name
	}
	return fmt.Sprintf("%s (process %d)", u.Name, u.PID)
}

// udev looks at each device that appears, and writes to none.
var lookers = []string{"systemd-udevd", "(udev-worker)", "udevd", "blkid"}

// DeviceUsers lists the programs of this machine that have a block device open, or the disk that it is a part of, or a
// part of it, as far as this process may look; and the loop devices that stand on it. It leaves out this process, and
// those that only look at each new device.
func DeviceUsers(path string) ([]User, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !IsDevice(st) {
		return nil, &os.PathError{Op: "stat", Path: path, Err: ErrNotDevice}
	}
	same := overlapping(rdevOf(st))
	is := func(path string) bool {
		st, err := os.Stat(path)
		return err == nil && IsDevice(st) && slices.Contains(same, rdevOf(st))
	}
	var users []User
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is well formed
	for _, b := range backing {
		if p, err := os.ReadFile(b); err == nil && is(strings.TrimSuffix(string(p), "\n")) {
			users = append(users, User{Name: strings.Split(b, "/")[3], Writing: true})
		}
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range processes {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if u, uses := userOf(pid, is); uses && !slices.Contains(lookers, u.Name) {
			users = append(users, u)
		}
	}
	return users, nil
}

// userOf says how a process uses a device. One that has ended meanwhile uses none.
func userOf(pid int, is func(path string) bool) (u User, uses bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	fds, _ := os.ReadDir(dir + "/fd")
	u.PID = pid
	for _, fd := range fds {
		if !is(dir + "/fd/" + fd.Name()) {
			continue
		}
		uses = true
		info, _ := os.ReadFile(dir + "/fdinfo/" + fd.Name())
		for line := range strings.Lines(string(info)) {
			if octal, ok := strings.CutPrefix(line, "flags:"); ok {
				flags, err := strconv.ParseInt(strings.TrimSpace(octal), 8, 64)
				u.Writing = u.Writing || err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY
			}
		}
	}
	name, _ := os.ReadFile(dir + "/comm")
	u.Name = strings.TrimSuffix(string(name), "\n")
	return u, uses
}

// overlapping returns a device, its parts, and the disk that it is a part of.
func overlapping(rdev uint64) []uint64 {
	same := []uint64{rdev}
	add := func(path string) {
		var major, minor uint32
		p, err := os.ReadFile(path)
		if err != nil {
			return
		}
		if _, err := fmt.Sscanf(string(p), "%d:%d", &major, &minor); err == nil {
			same = append(same, unix.Mkdev(major, minor))
		}
	}
	dir := sysDevice(rdev)
	if _, err := os.Stat(dir + "/partition"); err == nil {
		add(dir + "/../dev")
	}
	parts, _ := filepath.Glob(dir + "/*/partition") // the pattern is well formed
	for _, p := range parts {
		add(Dir(p) + "/dev")
	}
	return same
}
