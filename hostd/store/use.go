package store

import (
	"sync"
	"time"
)

// useEvery is how often the times of last use are written down. A crash costs at most so much of the order in which
// files are evicted.
const useEvery = time.Minute

// Use says that somebody reads the file, or fills it, until the returned function is called: Drop leaves it alone
// meanwhile.
func (f *File) Use() (done func()) {
	f.Touch()
	f.mu.Lock()
	f.users++
	f.mu.Unlock()
	return sync.OnceFunc(func() {
		f.Touch()
		f.mu.Lock()
		f.users--
		f.mu.Unlock()
	})
}

// InUse reports whether a Use has not ended.
func (f *File) InUse() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.users > 0
}

// Touch makes now the time of last use. Reading and writing chunks do so by themselves.
func (f *File) Touch() { f.used.Store(time.Now().UnixNano()) }

// LastUse returns when the file was used last; a restart may set it back by a minute.
func (f *File) LastUse() time.Time { return time.Unix(0, f.used.Load()) }

// saveUse writes down when the file was used last, as the time of change of its manifest, which nothing else changes.
// Only the flusher calls it, and Close after that.
func (f *File) saveUse() {
	used := f.used.Load()
	if used == f.saved || f.whyGone() != nil {
		return
	}
	if err := f.store.fs.Chtimes(manifestIn(f.dir), time.Unix(0, used)); err != nil {
		f.store.log.Debug("cannot note the last use", "file", f.id, "error", err)
		return
	}
	f.saved = used
}

// loadUse finds out when the file was used last.
func (f *File) loadUse() error {
	st, err := f.store.fs.Stat(manifestIn(f.dir))
	if err != nil {
		return err
	}
	f.used.Store(st.ModTime().UnixNano())
	f.saved = f.used.Load()
	return nil
}
