package guest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// usersOf returns, for each of the files that exist, the processes that have it mapped or open, in order, but for this
// one. The kernel knows that, whatever the definitions of domains say.
func usersOf(paths []string) (map[string][]int, error) {
	users := map[string][]int{}
	byInode := map[string]string{}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			users[path] = nil
			// As a line of /proc/PID/maps names a file: "MAJOR:MINOR INODE", the former in hex.
			byInode[fmt.Sprintf("%02x:%02x %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)] = path
		}
	}
	if len(users) == 0 {
		return users, nil
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		found := map[string]bool{}
		mappings(p, byInode, found)
		opens(p, users, found)
		for path := range found {
			users[path] = append(users[path], pid)
		}
	}
	for _, pids := range users {
		slices.Sort(pids)
	}
	return users, nil
}

// usedBy returns a process that uses a file; 0 if none does.
func usedBy(path string) (pid int, err error) {
	users, err := usersOf([]string{path})
	if err != nil || len(users[path]) == 0 {
		return 0, err
	}
	return users[path][0], nil
}

// mappings notes which of the files a process has mapped. One that has ended, or is none of ours to look at, has none.
func mappings(process string, byInode map[string]string, found map[string]bool) {
	f, err := os.Open(filepath.Join(process, "maps"))
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			if path, ok := byInode[fields[3]+" "+fields[4]]; ok {
				found[path] = true
			}
		}
	}
}

// opens notes which of the files a process has open.
func opens(process string, files map[string][]int, found map[string]bool) {
	fds, err := filepath.Glob(filepath.Join(process, "fd", "[0-9]*"))
	if err != nil {
		return
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			if _, ok := files[to]; ok {
				found[to] = true
			}
		}
	}
}

// vmOf says which virtual machine a process runs: the UUID of its -uuid, or the process where it says none. ok is false
// of what is no QEMU.
func vmOf(pid int) (vm string, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "", false
	}
	args := bytes.Split(text, []byte{0})
	for i, arg := range args[:len(args)-1] {
		if flag, ok := strings.CutPrefix(string(arg), "-"); ok && strings.TrimPrefix(flag, "-") == "uuid" {
			return strings.ToLower(string(args[i+1])), true
		}
	}
	if strings.HasPrefix(filepath.Base(string(args[0])), "qemu") {
		return fmt.Sprintf("process %d", pid), true
	}
	return "", false
}

// contested says whether memory of the domain with a UUID is that of another VM too, or of another alone: who is at the
// other end of a link by it cannot be told then. A domain that moves between two processes of this machine is one VM.
func contested(uuid string, users []int) bool {
	vms := map[string]bool{}
	for _, pid := range users {
		if vm, ok := vmOf(pid); ok {
			vms[vm] = true
		}
	}
	if len(vms) > 1 {
		return true
	}
	for vm := range vms {
		return !strings.HasPrefix(vm, "process ") && vm != uuid
	}
	return false
}
