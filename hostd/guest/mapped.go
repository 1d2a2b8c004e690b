package guest

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mappedBy returns a process that has a file mapped, or open; 0 if none has. A file that is somebody's memory must not be
// taken away because this daemon does not know whose: another daemon of this machine may.
func mappedBy(path string) (pid int, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("stat %s: no inode", path)
	}
	// As a line of /proc/PID/maps names a file: "MAJOR:MINOR INODE", the former in hex.
	want := fmt.Sprintf(" %02x:%02x %d ", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if maps(p, want) || opens(p, path) {
			return pid, nil
		}
	}
	return 0, nil
}

// maps says whether a process has a mapping of the file.
func maps(process, want string) bool {
	f, err := os.Open(filepath.Join(process, "maps"))
	if err != nil {
		return false // it has ended, or is none of ours to look at
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.Contains(lines.Text()+" ", want) {
			return true
		}
	}
	return false
}

// opens says whether a process has the file open.
func opens(process, path string) bool {
	fds, err := filepath.Glob(filepath.Join(process, "fd", "[0-9]*"))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == path {
			return true
		}
	}
	return false
}
