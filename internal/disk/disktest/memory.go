package disktest

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// memoryTotal is the size of a Memory without a limit.
const memoryTotal = 1 << 40

// Memory is an FS in memory, for tests that must not touch a real one, such as those in a testing/synctest bubble. It
// knows no symbolic links, no owners, and no blocks shared between files. It keeps everything until it is garbage: to
// lose what was not synced, put a Fault over it.
type Memory struct {
	mu    sync.RWMutex
	root  *memoryNode
	limit int64
	used  int64 // bytes of all pages
	inos  uint64
	locks map[string]bool
}

var _ disk.FS = (*Memory)(nil)

// NewMemory returns an empty file system that holds limit bytes of data, counted in pages of 4096; 0 means a TiB.
func NewMemory(limit int64) *Memory {
	m := &Memory{locks: map[string]bool{}}
	m.SetLimit(limit)
	m.root = m.node(fs.ModeDir | 0o755)
	return m
}

// SetLimit changes how much fits. What is over it stays, and nothing can be added.
func (m *Memory) SetLimit(limit int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.limit = limit; limit == 0 {
		m.limit = memoryTotal
	}
}

// memoryNode is a file or directory, whatever its names are. The file system's mu guards it.
type memoryNode struct {
	ino      uint64
	mode     fs.FileMode
	changed  time.Time
	names    int // of a file
	open     int // handles
	size     int64
	pages    map[int64]*[faultPage]byte // of a file; what is not there is a hole
	children map[string]*memoryNode     // of a directory
}

func (m *Memory) node(mode fs.FileMode) *memoryNode {
	m.inos++
	n := &memoryNode{ino: m.inos, mode: mode, changed: time.Now()}
	if mode.IsDir() {
		n.children = map[string]*memoryNode{}
	} else {
		n.pages = map[int64]*[faultPage]byte{}
	}
	return n
}

// free gives up the pages of a file that nobody can reach any more. The caller holds mu.
func (m *Memory) free(n *memoryNode) {
	if !n.mode.IsDir() && n.names == 0 && n.open == 0 {
		m.used -= int64(len(n.pages)) * faultPage
		n.pages = nil
	}
}

// find returns what is at path, or nil, and the directory and name where it would be. The caller holds mu.
func (m *Memory) find(path string) (n, dir *memoryNode, name string, err error) {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return m.root, nil, "", nil
	}
	dir = m.root
	parts := strings.Split(path[1:], "/")
	for _, part := range parts[:len(parts)-1] {
		next := dir.children[part]
		switch {
		case next == nil:
			return nil, nil, "", syscall.ENOENT
		case !next.mode.IsDir():
			return nil, nil, "", syscall.ENOTDIR
		}
		dir = next
	}
	name = parts[len(parts)-1]
	return dir.children[name], dir, name, nil
}

// must is find for what has to be there.
func (m *Memory) must(path string) (n, dir *memoryNode, name string, err error) {
	n, dir, name, err = m.find(path)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	return n, dir, name, err
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return full(&fs.PathError{Op: op, Path: path, Err: err})
}

func linkError(op, from, to string, err error) error {
	if err == nil {
		return nil
	}
	return full(&os.LinkError{Op: op, Old: from, New: to, Err: err})
}

// OpenFile implements disk.FS. Directories cannot be opened.
func (m *Memory) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, dir, name, err := m.find(path)
	switch {
	case err != nil:
	case n == nil && flag&os.O_CREATE == 0:
		err = syscall.ENOENT
	case n == nil:
		n = m.node(perm.Perm())
		n.names = 1
		dir.children[name] = n
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		err = syscall.EEXIST
	case n.mode.IsDir():
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, pathError("open", path, err)
	}
	if flag&os.O_TRUNC != 0 {
		m.resize(n, 0)
	}
	n.open++
	return &memoryFile{fs: m, node: n, name: path, flag: flag}, nil
}

// CreateUnnamed implements disk.FS.
func (m *Memory) CreateUnnamed(dir string, perm fs.FileMode) (disk.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, _, _, err := m.must(dir)
	if err == nil && !d.mode.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("open", dir, err)
	}
	n := m.node(perm.Perm())
	n.open++
	return &memoryFile{fs: m, node: n, name: filepath.Join(dir, "unnamed"), flag: os.O_RDWR, unnamed: true}, nil
}

// OpenDevice implements disk.FS. There are no devices.
func (m *Memory) OpenDevice(path string, _ int) (disk.File, int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	_, _, _, err := m.must(path)
	if err == nil {
		err = disk.ErrNotDevice
	}
	return nil, 0, pathError("open", path, err)
}

// Rename implements disk.FS.
func (m *Memory) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return linkError("rename", from, to, m.rename(from, to, true))
}

// RenameNew implements disk.FS.
func (m *Memory) RenameNew(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return linkError("rename", from, to, m.rename(from, to, false))
}

func (m *Memory) rename(from, to string, replace bool) error {
	n, dir, name, err := m.must(from)
	if err != nil {
		return err
	}
	old, toDir, toName, err := m.find(to)
	switch {
	case err != nil:
		return err
	case old != nil && !replace:
		return syscall.EEXIST
	case old == n:
		return nil
	case dir == nil || toDir == nil || strings.HasPrefix(filepath.Clean("/"+to)+"/", filepath.Clean("/"+from)+"/"):
		return syscall.EINVAL
	case old == nil:
	case old.mode.IsDir() && !n.mode.IsDir():
		return syscall.EISDIR
	case !old.mode.IsDir() && n.mode.IsDir():
		return syscall.ENOTDIR
	case len(old.children) > 0:
		return syscall.ENOTEMPTY
	}
	delete(dir.children, name)
	toDir.children[toName] = n
	if old != nil && !old.mode.IsDir() {
		old.names--
		m.free(old)
	}
	return nil
}

// Link implements disk.FS.
func (m *Memory) Link(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, _, _, err := m.must(from)
	if err == nil && n.mode.IsDir() {
		err = syscall.EPERM
	}
	if err == nil {
		err = m.link(n, to)
	}
	return linkError("link", from, to, err)
}

// link gives a file one more name. The caller holds mu.
func (m *Memory) link(n *memoryNode, to string) error {
	old, dir, name, err := m.find(to)
	if err != nil {
		return err
	}
	if old != nil {
		return syscall.EEXIST
	}
	dir.children[name] = n
	n.names++
	return nil
}

// Remove implements disk.FS.
func (m *Memory) Remove(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, dir, name, err := m.must(path)
	if err == nil && (dir == nil || len(n.children) > 0) {
		err = syscall.ENOTEMPTY
	}
	if err != nil {
		return pathError("remove", path, err)
	}
	m.unlink(dir, name)
	return nil
}

// RemoveAll implements disk.FS.
func (m *Memory) RemoveAll(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, dir, name, err := m.find(path)
	if err == syscall.ENOENT || err == nil && n == nil {
		return nil
	}
	if err == nil && dir == nil {
		err = syscall.EBUSY
	}
	if err != nil {
		return pathError("remove", path, err)
	}
	m.unlink(dir, name)
	return nil
}

// unlink takes a name away, and of a directory all names below it. The caller holds mu.
func (m *Memory) unlink(dir *memoryNode, name string) {
	n := dir.children[name]
	delete(dir.children, name)
	if !n.mode.IsDir() {
		n.names--
		m.free(n)
	}
	for name := range n.children {
		m.unlink(n, name)
	}
}

// MkdirAll implements disk.FS.
func (m *Memory) MkdirAll(path string, perm fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir := m.root
	for part := range strings.SplitSeq(strings.Trim(filepath.Clean("/"+path), "/"), "/") {
		if part == "" {
			break
		}
		next := dir.children[part]
		if next == nil {
			next = m.node(fs.ModeDir | perm.Perm())
			dir.children[part] = next
		}
		if !next.mode.IsDir() {
			return pathError("mkdir", path, syscall.ENOTDIR)
		}
		dir = next
	}
	return nil
}

// ReadDir implements disk.FS.
func (m *Memory) ReadDir(path string) ([]fs.DirEntry, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, _, _, err := m.must(path)
	if err == nil && !n.mode.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("readdir", path, err)
	}
	var entries []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		entries = append(entries, fs.FileInfoToDirEntry(n.children[name].info(name)))
	}
	return entries, nil
}

// Stat implements disk.FS.
func (m *Memory) Stat(path string) (fs.FileInfo, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, _, _, err := m.must(path)
	if err != nil {
		return nil, pathError("stat", path, err)
	}
	return n.info(filepath.Base(path)), nil
}

// Lstat implements disk.FS.
func (m *Memory) Lstat(path string) (fs.FileInfo, error) { return m.Stat(path) }

// Chmod implements disk.FS. The mode is shown and keeps nobody from anything.
func (m *Memory) Chmod(path string, perm fs.FileMode) error {
	return m.change("chmod", path, func(n *memoryNode) { n.mode = n.mode.Type() | perm.Perm() })
}

// Chtimes implements disk.FS.
func (m *Memory) Chtimes(path string, t time.Time) error {
	return m.change("chtimes", path, func(n *memoryNode) { n.changed = t })
}

func (m *Memory) change(op, path string, do func(n *memoryNode)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, _, _, err := m.must(path)
	if err == nil {
		do(n)
	}
	return pathError(op, path, err)
}

// SyncDir implements disk.FS.
func (m *Memory) SyncDir(path string) error {
	_, err := m.ReadDir(path)
	return err
}

// Lock implements disk.FS. There is one process: the lock ends with the Closer.
func (m *Memory) Lock(path string) (io.Closer, error) {
	f, err := m.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	path = filepath.Clean("/" + path)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[path] {
		m.close(f.(*memoryFile))
		return nil, &fs.PathError{Op: "lock", Path: path, Err: disk.ErrLocked}
	}
	m.locks[path] = true
	return &memoryLock{f.(*memoryFile), path}, nil
}

type memoryLock struct {
	file *memoryFile
	path string
}

// Close gives up the lock.
func (l *memoryLock) Close() error {
	m := l.file.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.close(l.file); err != nil {
		return err
	}
	delete(m.locks, l.path)
	return nil
}

// Space implements disk.FS.
func (m *Memory) Space(path string) (free, total int64, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if _, _, _, err := m.must(path); err != nil {
		return 0, 0, pathError("statfs", path, err)
	}
	return max(0, m.limit-m.used), m.limit, nil
}

// memoryInfo is an fs.FileInfo; Sys gives what os would on Linux, as far as there is something to tell.
type memoryInfo struct {
	name    string
	size    int64
	mode    fs.FileMode
	changed time.Time
	sys     *syscall.Stat_t
}

func (n *memoryNode) info(name string) fs.FileInfo {
	t := syscall.NsecToTimespec(n.changed.UnixNano())
	sys := &syscall.Stat_t{Ino: n.ino, Size: n.size, Blocks: int64(len(n.pages)) * faultPage / 512, Mtim: t, Ctim: t}
	setTo(&sys.Nlink, n.names)
	return memoryInfo{name, n.size, n.mode, n.changed, sys}
}

// setTo sets a field that has another type on each architecture.
func setTo[T uint16 | uint32 | uint64](field *T, n int) { *field = T(n) }

func (i memoryInfo) Name() string       { return i.name }
func (i memoryInfo) Size() int64        { return i.size }
func (i memoryInfo) Mode() fs.FileMode  { return i.mode }
func (i memoryInfo) ModTime() time.Time { return i.changed }
func (i memoryInfo) IsDir() bool        { return i.mode.IsDir() }
func (i memoryInfo) Sys() any           { return i.sys }
