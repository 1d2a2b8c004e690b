package store

import (
	"cmp"
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/disk"
)

const (
	// maxOpenFiles is how many data files are kept open: enough that the files a cluster is busy with stay open,
	// few enough that a daemon with the usual limit of 1024 descriptors has most of them left for its peers.
	maxOpenFiles = 256
	// openPart is the part of the process' descriptors that they may take, if that is less; minOpenFiles is as few as
	// they can be.
	openPart     = 4
	minOpenFiles = 8
)

// openFiles is how many data files a store of this process keeps open.
func openFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxOpenFiles
	}
	return int(max(minOpenFiles, min(maxOpenFiles, limit.Cur/openPart)))
}

// handles keeps the data files open that were used last. Those that are in use, or have writes that are not
// synced yet, stay open beyond the limit: a file opened anew could miss an error of writing back. There are never many
// of the latter: see flusher.relieve.
type handles struct {
	limit int
	pins  atomic.Int64 // handles kept open for writes that are not synced

	mu       sync.Mutex    // guards all below and the handles; never held during I/O
	recent   *list.List    // of *handle, the one used last in front
	users    int           // acquired and not released
	draining bool          // acquire refuses
	idle     chan struct{} // closed when draining and without users
}

// handle is an open data file. It is closed when nobody uses it and handles has dropped it.
type handle struct {
	disk.File
	owner *File
	refs  int           // users, and one more while it is pinned; guarded by handles.mu
	entry *list.Element // nil once dropped
}

func newHandles(limit int) *handles {
	return &handles{limit: limit, recent: list.New(), idle: make(chan struct{})}
}

// acquire returns the open data file of f for one operation; release it after use. It does not allocate if the
// file is open. When the store closes it fails with ErrClosed.
func (h *handles) acquire(f *File) (*handle, error) {
	h.mu.Lock()
	if h.draining {
		h.mu.Unlock()
		return nil, ErrClosed
	}
	h.users++
	if hd := h.use(f); hd != nil {
		h.mu.Unlock()
		return hd, nil
	}
	h.mu.Unlock()
	hd, err := h.open(f)
	if err != nil {
		h.mu.Lock()
		h.leave()
		h.mu.Unlock()
	}
	return hd, err
}

// release ends what acquire began.
func (h *handles) release(hd *handle) {
	h.mu.Lock()
	h.leave()
	h.mu.Unlock()
	h.unpin(hd)
}

// pin is acquire for the store's own use, which goes on while it closes.
func (h *handles) pin(f *File) (*handle, error) {
	h.mu.Lock()
	if hd := h.use(f); hd != nil {
		h.mu.Unlock()
		return hd, nil
	}
	h.mu.Unlock()
	return h.open(f)
}

// pinAgain makes one more unpin of an acquired handle necessary.
func (h *handles) pinAgain(hd *handle) {
	h.mu.Lock()
	hd.refs++
	h.mu.Unlock()
}

// use returns the handle of f if it is open. The caller holds mu.
func (h *handles) use(f *File) *handle {
	hd := f.handle
	if hd != nil {
		hd.refs++
		h.recent.MoveToFront(hd.entry)
	}
	return hd
}

// leave notes that an operation ended. The caller holds mu.
func (h *handles) leave() {
	h.users--
	if h.draining && h.users == 0 {
		close(h.idle)
	}
}

// drain refuses new operations and waits for those that run.
func (h *handles) drain() {
	h.mu.Lock()
	h.draining = true
	if h.users == 0 {
		close(h.idle)
	}
	h.mu.Unlock()
	<-h.idle
}

func (h *handles) open(f *File) (*handle, error) {
	if err := f.whyGone(); err != nil { // its place may be another's by now
		return nil, err
	}
	file, err := openData(f.store.fs, dataIn(f.dir))
	if errors.Is(err, fs.ErrNotExist) {
		err = cmp.Or(f.whyGone(), err)
		if _, there := f.store.fs.Lstat(f.dir); errors.Is(there, fs.ErrNotExist) {
			err = cmp.Or(f.whyGone(), ErrRemoved) // just now: Remove has moved it away, and says so in a moment
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open data of %s: %w", f.id.Short(), err)
	}
	h.mu.Lock()
	if hd := h.use(f); hd != nil { // somebody else was faster
		h.mu.Unlock()
		file.Close()
		return hd, nil
	}
	hd := &handle{File: file, owner: f, refs: 1}
	hd.entry = h.recent.PushFront(hd)
	f.handle = hd
	stale := h.trim()
	h.mu.Unlock()
	closeAll(stale)
	return hd, nil
}

// openData opens a data file for reading and writing. An export by hard link has made it read-only, which
// stops an owner that is not root.
func openData(f disk.FS, path string) (disk.File, error) {
	file, err := f.OpenFile(path, os.O_RDWR, 0)
	if !errors.Is(err, fs.ErrPermission) {
		return file, err
	}
	st, err := f.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(path, st.Mode().Perm()|0o200); err != nil {
		return nil, err
	}
	return f.OpenFile(path, os.O_RDWR, 0)
}

// unpin ends one use of hd.
func (h *handles) unpin(hd *handle) {
	h.mu.Lock()
	hd.refs--
	last := hd.refs == 0 && hd.entry == nil
	var stale []*handle
	if !last && h.recent.Len() > h.limit {
		stale = h.trim()
	}
	h.mu.Unlock()
	if last {
		hd.Close()
	}
	closeAll(stale)
}

// drop forgets the handle of f, which is closed when its last user releases it.
func (h *handles) drop(f *File) error {
	h.mu.Lock()
	hd := f.handle
	if hd == nil {
		h.mu.Unlock()
		return nil
	}
	h.forget(hd)
	idle := hd.refs == 0
	h.mu.Unlock()
	if idle {
		return hd.Close()
	}
	return nil
}

// relieve closes all idle handles and returns how many they were.
func (h *handles) relieve() int {
	h.mu.Lock()
	stale := h.keep(0)
	h.mu.Unlock()
	closeAll(stale)
	return len(stale)
}

// trim forgets idle handles, the longest unused first, until no more than the limit are kept or none is idle.
// The caller holds mu and closes what is returned after giving it up.
func (h *handles) trim() []*handle { return h.keep(h.limit) }

// keep is trim to another limit.
func (h *handles) keep(limit int) (stale []*handle) {
	for e := h.recent.Back(); e != nil && h.recent.Len() > limit; {
		hd := e.Value.(*handle)
		e = e.Prev()
		if hd.refs == 0 {
			h.forget(hd)
			stale = append(stale, hd)
		}
	}
	return stale
}

func (h *handles) forget(hd *handle) {
	h.recent.Remove(hd.entry)
	hd.entry = nil
	hd.owner.handle = nil
}

func (h *handles) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.recent.Len()
}

func closeAll(hs []*handle) error {
	var errs []error
	for _, hd := range hs {
		errs = append(errs, hd.Close())
	}
	return errors.Join(errs...)
}
