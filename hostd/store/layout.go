package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

const (
	version       = 1 // of the layout; see docs/formats.md
	versionPrefix = "virtswarm store "
	maxVersion    = 64 // bytes in VERSION

	dirPerm  = 0o700 // images are nobody's business but the daemon's
	filePerm = 0o600
)

// layout names the places of a store.
type layout struct{ dir string }

func (l layout) lock() string     { return filepath.Join(l.dir, "LOCK") }
func (l layout) version() string  { return filepath.Join(l.dir, "VERSION") }
func (l layout) stamp() string    { return filepath.Join(l.dir, "cluster") }
func (l layout) incoming() string { return filepath.Join(l.dir, "incoming") }
func (l layout) files() string    { return filepath.Join(l.dir, "files") }
func (l layout) damaged() string  { return filepath.Join(l.dir, "damaged") }
func (l layout) parts() string    { return filepath.Join(l.dir, "parts") }

func (l layout) file(id content.Digest) string { return filepath.Join(l.files(), id.Hex()) }

// fresh returns a new name below incoming/.
func (l layout) fresh() string { return filepath.Join(l.incoming(), rand.Text()) }

// Names in the directory of a file.
func manifestIn(dir string) string { return filepath.Join(dir, "manifest") }
func bitmapIn(dir string) string   { return filepath.Join(dir, "bitmap") }
func dataIn(dir string) string     { return filepath.Join(dir, "data") }
func noteIn(dir string) string     { return filepath.Join(dir, "note") }

// prepare makes the directory a store of this version, or finds that it is one, and takes its lock.
func (l layout) prepare(f disk.FS) (io.Closer, error) {
	if err := disk.MakeDir(f, l.dir, dirPerm); err != nil {
		return nil, fmt.Errorf("open store %s: %w", l.dir, err)
	}
	lock, err := f.Lock(l.lock())
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := l.check(f); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// check reads VERSION, or writes it as the last step of making a new store.
func (l layout) check(f disk.FS) error {
	p, err := disk.ReadFile(f, l.version(), maxVersion)
	if errors.Is(err, fs.ErrNotExist) {
		return l.initialise(f)
	}
	if err != nil {
		return fmt.Errorf("%w: %w; check the disk and the permissions of %s", ErrDamaged, err, l.dir)
	}
	digits, ok := strings.CutPrefix(strings.TrimSuffix(string(p), "\n"), versionPrefix)
	v, err := strconv.Atoi(digits)
	if !ok || err != nil || v < 1 {
		return fmt.Errorf("%w: %s holds %q; if the rest of the directory is sound, write %q into it", ErrDamaged, l.version(), p, versionLine())
	}
	if v != version {
		return fmt.Errorf("%w: %s says version %d and this program knows version %d; run a program that knows it, or use another directory", ErrDamaged, l.version(), v, version)
	}
	return nil
}

func versionLine() string { return fmt.Sprintf("%s%d\n", versionPrefix, version) }

func (l layout) initialise(f disk.FS) error {
	if names, err := f.ReadDir(l.files()); err == nil && len(names) > 0 {
		return fmt.Errorf("%w: %s is missing but %s is not empty; if it is sound, write %q into the former", ErrDamaged, l.version(), l.files(), versionLine())
	}
	for _, d := range []string{l.incoming(), l.files(), l.damaged()} {
		if err := disk.MakeDir(f, d, dirPerm); err != nil {
			return fmt.Errorf("make store %s: %w", l.dir, err)
		}
	}
	if err := disk.WriteFile(f, l.version(), []byte(versionLine()), filePerm); err != nil {
		return fmt.Errorf("make store %s: %w", l.dir, err)
	}
	return nil
}
