package disktest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// Errors that a Fault injects by itself.
var (
	ErrKilled = errors.New("the process was killed here (injected)")
	// ErrTorn, returned or wrapped by a hook of a write, has the first half written before it fails.
	ErrTorn = errors.New("torn write (injected)")
)

// faultPage is the unit in which unsynced bytes are lost.
const faultPage = 4096

// Op is one operation on a file system, as a hook sees it.
type Op struct {
	N    int    // counts all operations that change something, from 1; 0 for those that only look
	Name string // open, create, write, sync, truncate, punch, clone, link, rename, remove, mkdir, chmod, syncdir; look: read, stat, readdir, lock, space, chtimes
	Path string // the file or directory; where to, if there are two
}

// Fault is an FS for tests. It does everything on another FS, may be told to fail at one exact operation, and
// can behave as a machine does that loses its power: it keeps what every unsynced page, length and name was
// before, and brings a random part of them back.
//
// It models the rules of package disk and nothing kinder: a name is durable after SyncDir of its directory (names
// are lost in the reverse order of their making), bytes and length after Sync of the file. Pages that were
// written before a Sync that failed are lost for certain, unless they are written again, as on Linux. Neither
// waits for a real disk, so that a test can afford thousands.
type Fault struct {
	under disk.FS
	attic string // where removed files wait until their removal is durable

	mu     sync.Mutex // held through every operation that changes something
	rng    *rand.Rand
	n      int
	hook   func(Op) error
	killed bool
	inodes map[inodeID]*inode
	order  []*inode      // in the order of their first opening, so that a seed decides alike
	names  []*nameChange // not durable yet, the oldest first
	buried int
	locks  map[*faultLock]struct{}
}

var _ disk.FS = (*Fault)(nil)

// NewFault returns a Fault over under, with chance decided by seed. The attic is a directory for its own use, on
// the same file system as what it is used for.
func NewFault(under disk.FS, attic string, seed uint64) (*Fault, error) {
	if err := under.MkdirAll(attic, 0o700); err != nil {
		return nil, err
	}
	return &Fault{
		under: under, attic: attic,
		rng:    rand.New(rand.NewPCG(seed, 0)),
		inodes: make(map[inodeID]*inode),
		locks:  make(map[*faultLock]struct{}),
	}, nil
}

// OnOp has hook called before every operation; an error it returns fails the operation, which then does nothing.
// The hook must not use the Fault; ErrKilled does what Kill does.
func (f *Fault) OnOp(hook func(Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// FailAt fails the n-th operation from now that changes something, once.
func (f *Fault) FailAt(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n += f.n
	f.hook = func(op Op) error {
		if op.N == n {
			return err
		}
		return nil
	}
}

// KillAt has the n-th operation from now that changes something, and all after it, fail with ErrKilled.
func (f *Fault) KillAt(n int) { f.FailAt(n, ErrKilled) }

// Ops returns how many operations have changed something, or tried to.
func (f *Fault) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// Killed reports whether KillAt has struck, or Kill or PowerOff was called.
func (f *Fault) Killed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.killed
}

// Kill makes every operation from now on fail with ErrKilled. Nothing is lost, as when a process is killed; what
// follows uses another FS.
func (f *Fault) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.die()
}

// die is the end of the process, and so of its locks. The caller holds mu.
func (f *Fault) die() {
	f.killed = true
	for l := range f.locks {
		_ = l.under.Close()
	}
	clear(f.locks)
}

// PowerOff is Kill, and then loses of what was not synced: names from a random one on, and random pages.
func (f *Fault) PowerOff() (err error) {
	f.PowerOffThen(func(lost error) { err = lost })
	return err
}

// PowerOffThen is PowerOff, and calls then while all who use the Fault still wait for an answer: a process that ends
// there never learns of its death.
func (f *Fault) PowerOffThen(then func(error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.die()
	var errs []error
	for keep := f.rng.IntN(len(f.names) + 1); len(f.names) > keep; {
		last := f.names[len(f.names)-1]
		f.names = f.names[:len(f.names)-1]
		errs = append(errs, f.undo(last))
	}
	chance := f.rng.IntN(3) // lose no pages but doomed ones, some, or all
	for _, in := range f.order {
		errs = append(errs, in.lose(func() bool { return chance == 2 || chance == 1 && f.rng.IntN(2) == 0 }), in.file.Close())
	}
	f.inodes, f.order = nil, nil
	then(errors.Join(append(errs, f.under.RemoveAll(f.attic))...))
}

// before counts the operation and asks the hook. The caller holds mu.
func (f *Fault) before(name, path string, changes bool) error {
	if f.killed {
		return &fs.PathError{Op: name, Path: path, Err: ErrKilled}
	}
	op := Op{Name: name, Path: path}
	if changes {
		f.n++
		op.N = f.n
	}
	if f.hook == nil {
		return nil
	}
	err := f.hook(op)
	if errors.Is(err, ErrKilled) {
		f.die()
	}
	if err != nil {
		return full(&fs.PathError{Op: name, Path: path, Err: err})
	}
	return nil
}

func (f *Fault) look(name, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.before(name, path, false)
}

// OpenFile implements disk.FS.
func (f *Fault) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.under.Lstat(path)
	creates := flag&os.O_CREATE != 0 && errors.Is(err, fs.ErrNotExist)
	if !creates {
		if err := f.before("open", path, false); err != nil {
			return nil, err
		}
	} else if err := f.before("create", path, true); err != nil {
		return nil, err
	}
	truncates := flag&os.O_TRUNC != 0
	file, err := f.under.OpenFile(path, flag&^os.O_TRUNC, perm)
	if err != nil {
		return nil, err
	}
	if creates {
		f.changed(&nameChange{path: path})
	}
	ff, err := f.wrap(file, path, flag&(os.O_WRONLY|os.O_RDWR) != 0)
	if err != nil {
		return nil, err
	}
	if truncates && !creates {
		if err := ff.truncate(0); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return ff, nil
}

// CreateUnnamed implements disk.FS.
func (f *Fault) CreateUnnamed(dir string, perm fs.FileMode) (disk.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("create", dir, true); err != nil {
		return nil, err
	}
	file, err := f.under.CreateUnnamed(dir, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fault: f}, nil
}

// OpenDevice implements disk.FS. What is written to a device is not lost by PowerOff.
func (f *Fault) OpenDevice(path string, flag int) (disk.File, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("open", path, true); err != nil {
		return nil, 0, err
	}
	file, size, err := f.under.OpenDevice(path, flag)
	if err != nil {
		return nil, 0, err
	}
	return &faultFile{File: file, fault: f}, size, nil
}

// Rename implements disk.FS.
func (f *Fault) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("rename", to, true); err != nil {
		return err
	}
	return f.rename(from, to, f.under.Rename)
}

// RenameNew implements disk.FS.
func (f *Fault) RenameNew(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("rename", to, true); err != nil {
		return err
	}
	return f.rename(from, to, f.under.RenameNew)
}

// Link implements disk.FS.
func (f *Fault) Link(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("link", to, true); err != nil {
		return err
	}
	if err := f.under.Link(from, to); err != nil {
		return err
	}
	f.changed(&nameChange{path: to})
	return nil
}

// Remove implements disk.FS.
func (f *Fault) Remove(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("remove", path, true); err != nil {
		return err
	}
	return f.bury(path)
}

// RemoveAll implements disk.FS, at once or not at all.
func (f *Fault) RemoveAll(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.under.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := f.before("remove", path, true); err != nil {
		return err
	}
	return f.bury(path)
}

// MkdirAll implements disk.FS.
func (f *Fault) MkdirAll(path string, perm fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	top := ""
	for p := path; ; p = filepath.Dir(p) {
		if _, err := f.under.Lstat(p); err == nil || p == filepath.Dir(p) {
			break
		}
		top = p
	}
	if top == "" {
		return f.under.MkdirAll(path, perm)
	}
	if err := f.before("mkdir", path, true); err != nil {
		return err
	}
	if err := f.under.MkdirAll(path, perm); err != nil {
		return err
	}
	f.changed(&nameChange{path: top})
	return nil
}

// ReadDir implements disk.FS.
func (f *Fault) ReadDir(path string) ([]fs.DirEntry, error) {
	if err := f.look("readdir", path); err != nil {
		return nil, err
	}
	return f.under.ReadDir(path)
}

// Stat implements disk.FS.
func (f *Fault) Stat(path string) (fs.FileInfo, error) {
	if err := f.look("stat", path); err != nil {
		return nil, err
	}
	return f.under.Stat(path)
}

// Lstat implements disk.FS.
func (f *Fault) Lstat(path string) (fs.FileInfo, error) {
	if err := f.look("stat", path); err != nil {
		return nil, err
	}
	return f.under.Lstat(path)
}

// Chmod implements disk.FS. Permissions are not among what PowerOff loses.
func (f *Fault) Chmod(path string, perm fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("chmod", path, true); err != nil {
		return err
	}
	return f.under.Chmod(path, perm)
}

// Chtimes implements disk.FS. The time is not among what PowerOff loses.
func (f *Fault) Chtimes(path string, t time.Time) error {
	if err := f.look("chtimes", path); err != nil {
		return err
	}
	return f.under.Chtimes(path, t)
}

// SyncDir implements disk.FS.
func (f *Fault) SyncDir(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("syncdir", path, true); err != nil {
		return err
	}
	return f.settle(path)
}

// Lock implements disk.FS.
func (f *Fault) Lock(path string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("lock", path, false); err != nil {
		return nil, err
	}
	under, err := f.under.Lock(path)
	if err != nil {
		return nil, err
	}
	l := &faultLock{f, under}
	f.locks[l] = struct{}{}
	return l, nil
}

// faultLock is a lock that ends with the process.
type faultLock struct {
	fault *Fault
	under io.Closer
}

// Close gives up the lock, unless the process is dead.
func (l *faultLock) Close() error {
	l.fault.mu.Lock()
	defer l.fault.mu.Unlock()
	if _, held := l.fault.locks[l]; !held {
		return nil
	}
	delete(l.fault.locks, l)
	return l.under.Close()
}

// Space implements disk.FS.
func (f *Fault) Space(path string) (free, total int64, err error) {
	if err := f.look("space", path); err != nil {
		return 0, 0, err
	}
	return f.under.Space(path)
}

// NoSpace is the error of a full disk, for hooks.
func NoSpace() error { return fmt.Errorf("%w (injected)", unix.ENOSPC) }

// full makes a disk.ErrNoSpace of an error that has ENOSPC underneath.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: %w", disk.ErrNoSpace, err)
	}
	return err
}

func (f *Fault) grave() string {
	f.buried++
	return filepath.Join(f.attic, strconv.Itoa(f.buried))
}
