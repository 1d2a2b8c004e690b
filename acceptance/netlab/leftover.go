package netlab

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	// root holds a lock and a directory for each lab. A lab whose lock nobody holds is a leftover.
	root = "/run/virtswarm-netlab"
	// prefix begins the name of every namespace of ours.
	prefix = "vslab-"
	// namespaces is where ip(8) keeps them.
	namespaces = "/run/netns"
)

func namespace(lab, name string) string { return prefix + lab + "-" + name }

// claim is the right to a lab's name, for as long as this process lives.
type claim struct {
	id   string
	lock *os.File
}

// newClaim takes down what dead processes left behind and takes a new name.
func newClaim() (*claim, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	all, err := lock(filepath.Join(root, "lock"), 0) // so that nobody sees a new lock before it is held
	if err != nil {
		return nil, err
	}
	defer all.Close()
	locks, err := filepath.Glob(filepath.Join(root, "*.lock"))
	if err != nil {
		return nil, err
	}
	for _, path := range locks {
		old, err := lock(path, syscall.LOCK_NB)
		if err != nil {
			continue // somebody works in it
		}
		left := &claim{id: strings.TrimSuffix(filepath.Base(path), ".lock"), lock: old}
		if err := errors.Join(sweep(left.id), left.release()); err != nil {
			return nil, fmt.Errorf("take down a dead process' lab: %w", err)
		}
	}
	id := make([]byte, 3)
	rand.Read(id)
	c := &claim{id: hex.EncodeToString(id)}
	c.lock, err = lock(c.path(), syscall.LOCK_NB)
	return c, err
}

func (c *claim) path() string { return filepath.Join(root, c.id+".lock") }

func (c *claim) release() error { return errors.Join(os.Remove(c.path()), c.lock.Close()) }

func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// sweep takes everything of a lab down, as far as it is there: processes, namespaces with all that is in them, mounts
// and files.
func sweep(id string) error {
	var errs []error
	found, _ := filepath.Glob(filepath.Join(namespaces, namespace(id, "*")))
	for _, path := range found {
		ns := filepath.Base(path)
		pids, err := exec.Command("ip", "netns", "pids", ns).Output()
		errs = append(errs, err)
		for _, pid := range bytes.Fields(pids) {
			if n, err := strconv.Atoi(string(pid)); err == nil && n > 1 {
				syscall.Kill(n, syscall.SIGKILL) // one that has ended meanwhile is fine
			}
		}
		errs = append(errs, run("ip", "netns", "del", ns))
	}
	dir := filepath.Join(root, id)
	mounts, err := mountsBelow(dir)
	errs = append(errs, err)
	for _, m := range slices.Backward(mounts) { // the last mounted first
		errs = append(errs, syscall.Unmount(m, syscall.MNT_DETACH))
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

// mountsBelow lists the mounts at a directory and below it, in the order in which they were made.
func mountsBelow(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		const mountPoint = 4 // proc(5); our paths have nothing that is escaped there
		if f := strings.Fields(line); len(f) > mountPoint && (f[mountPoint] == dir || strings.HasPrefix(f[mountPoint], dir+"/")) {
			found = append(found, f[mountPoint])
		}
	}
	return found, nil
}

// batch is a list of commands for one ip(8).
type batch []byte

func (b *batch) add(format string, a ...any) { *b = fmt.Appendf(*b, format+"\n", a...) }

// run carries them out inside a namespace.
func (b batch) run(ns string) error {
	cmd := exec.Command("ip", "-n", ns, "-batch", "-")
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -n %s -batch: %w: %s", ns, err, bytes.TrimSpace(out))
	}
	return nil
}

func run(program string, args ...string) error {
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
