package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// errManifest is wrapped by what is wrong with a file's manifest; such a file is set aside.
var errManifest = errors.New("bad manifest")

// load finds the files on disk and brings them to order.
func (s *Store) load() error {
	for _, d := range []string{s.layout.incoming(), s.layout.files(), s.layout.damaged()} {
		if err := disk.MakeDir(s.fs, d, dirPerm); err != nil {
			return unusable(d, err)
		}
	}
	s.loadStamp()
	s.sweepParts()
	leftovers, err := s.list(s.layout.incoming())
	if err != nil {
		return err
	}
	for _, e := range leftovers {
		s.sweep(filepath.Join(s.layout.incoming(), e.Name()))
	}
	entries, err := s.list(s.layout.files())
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(2 * runtime.GOMAXPROCS(0)) // some hash, some wait for the disk
	for _, e := range entries {
		g.Go(func() error { return s.loadFile(e.Name()) })
	}
	return g.Wait()
}

func (s *Store) list(dir string) ([]fs.DirEntry, error) {
	entries, err := s.fs.ReadDir(dir)
	if err != nil {
		return nil, unusable(dir, err)
	}
	return entries, nil
}

// unusable is the error for a part of the store that cannot be read, whatever is in it.
func unusable(path string, err error) error {
	return fmt.Errorf("%w: %w; check the disk and the permissions, or move %s away to go on without it", ErrDamaged, err, path)
}

func (s *Store) loadFile(name string) error {
	dir := filepath.Join(s.layout.files(), name)
	id, err := content.ParseDigest("b3:" + name)
	if err != nil {
		s.log.Warn("this does not belong into the store, left alone", "path", dir)
		return nil
	}
	m, err := s.readManifest(dir, id)
	if errors.Is(err, errManifest) {
		return s.quarantine(dir, name, err)
	}
	if err != nil {
		return unusable(dir, err)
	}
	f := newFile(s, m, dir)
	if err := errors.Join(f.restore(), f.loadUse()); err != nil {
		return unusable(dir, err)
	}
	f.loadNote()
	s.mu.Lock()
	s.files[id] = f
	s.mu.Unlock()
	return nil
}

func (s *Store) readManifest(dir string, id content.Digest) (*content.Manifest, error) {
	p, err := disk.ReadFile(s.fs, manifestIn(dir), content.MaxManifestSize)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, disk.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	if err != nil {
		return nil, err
	}
	if content.Sum(p) != id {
		return nil, fmt.Errorf("%w: it does not hash to the name of its directory", errManifest)
	}
	m, err := content.DecodeManifest(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	return m, nil
}

// quarantine moves a file that cannot be understood to damaged/, so that the rest goes on and it can be fetched
// anew.
func (s *Store) quarantine(dir, name string, cause error) error {
	for n := 1; ; n++ {
		to := filepath.Join(s.layout.damaged(), fmt.Sprintf("%s.%d", name, n))
		err := s.fs.RenameNew(dir, to)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return unusable(dir, errors.Join(cause, err))
		}
		s.metrics.damagedFiles.Inc()
		s.log.Warn("file set aside: its manifest is damaged; remove it when nobody needs to look at it", "path", to, "error", cause)
		return s.fs.SyncDir(s.layout.files())
	}
}

// restore brings the state of f in line with the disk, and the disk in line with itself.
func (f *File) restore() error {
	set, sound, err := f.readBitmap()
	if err != nil {
		return err
	}
	whole, err := f.ensureData()
	if err != nil {
		return err
	}
	if !whole {
		set, sound = content.NewBits(f.manifest.Chunks()), 0
	}
	f.resume(set)
	switch sound {
	case 0:
		err = f.bitmap.create(f.store.fs, f.durable)
	case 1:
		err = f.bitmap.write(f.store.fs, f.durable) // replaces the other slot
	}
	if err != nil {
		return err
	}
	if f.Complete() {
		return nil
	}
	return f.rehash()
}

// readBitmap returns the durable set and how many of the two slots are sound. With none the set is empty.
func (f *File) readBitmap() (set content.Bits, sound int, err error) {
	set, bad, err := f.bitmap.read(f.store.fs)
	if errors.Is(err, fs.ErrNotExist) {
		set, bad, err = content.NewBits(f.manifest.Chunks()), 2, nil
	}
	if err != nil {
		return content.Bits{}, 0, err
	}
	if bad > 0 {
		f.store.metrics.damagedBitmapSlots.Add(float64(bad))
		f.store.log.Warn("bitmap torn or damaged, put right", "file", f.id, "slots", bad)
	}
	return set, 2 - bad, nil
}

// ensureData makes sure that the data file is there in its full length; whole is false if it was not.
func (f *File) ensureData() (whole bool, err error) {
	path := dataIn(f.dir)
	st, err := f.store.fs.Stat(path)
	if err == nil && st.Mode().IsRegular() && st.Size() == f.manifest.Size() {
		return true, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		f.store.log.Warn("data file is missing, all of it must be fetched again", "file", f.id, "path", path)
		return false, errors.Join(createData(f.store.fs, f.dir, f.manifest.Size()), f.store.fs.SyncDir(f.dir))
	}
	if err != nil {
		return false, err
	}
	f.store.log.Warn("data file has the wrong length, looking for what is left", "file", f.id, "path", path, "bytes", st.Size(), "want", f.manifest.Size())
	data, err := openData(f.store.fs, path)
	if err != nil {
		return false, err
	}
	err = errors.Join(data.Truncate(f.manifest.Size()), data.Sync(), data.Close())
	return false, err
}

// rehash marks the chunks that are on disk, and right, though the bitmap does not name them: what was written
// shortly before a kill, or all of them after the bitmap was lost.
func (f *File) rehash() error {
	data, err := f.store.fs.OpenFile(dataIn(f.dir), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer data.Close()
	found := 0
	var buf []byte
	for e, err := range data.Extents(f.manifest.Size(), int64(f.manifest.ChunkSize())) {
		if err != nil {
			return err
		}
		first := int(e.Off / int64(f.manifest.ChunkSize()))
		for i := first; i < f.manifest.Chunks() && f.manifest.Offset(i) < e.Off+e.N; i++ {
			if f.have.Has(i) {
				continue
			}
			if buf == nil {
				buf = make([]byte, f.manifest.ChunkSize())
			}
			p := buf[:f.manifest.ChunkLen(i)]
			if _, err := data.ReadAt(p, f.manifest.Offset(i)); err == nil && f.manifest.Verify(i, p) == nil {
				f.mark(i)
				f.proven.Set(i)
				found++
			}
		}
	}
	if found > 0 {
		f.store.metrics.recovered.Add(float64(found))
		f.store.log.Info("found chunks that were written but not marked", "file", f.id, "chunks", found)
		f.store.flusher.wrote(f, 0)
	}
	return nil
}
