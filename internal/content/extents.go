package content

import (
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// Extent is a part of a file that may hold data: N bytes from Off on.
type Extent struct{ Off, N int64 }

// Extents yields the parts of f below size that are not holes, in order, each widened to multiples of grain
// (but not past size). They never overlap, so there are never more than size/grain of them, however scattered
// the file is. It ends after the first error. A file system that knows no holes shows one extent.
//
// It may be called from several goroutines at once; it moves the file offset of f, which nobody should use.
func Extents(f *os.File, size, grain int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for at := int64(0); at < size; {
			e, err := nextExtent(f, at, size, grain)
			if err != nil {
				yield(Extent{}, fmt.Errorf("find data in %s: %w", f.Name(), err))
				return
			}
			if e.N == 0 || !yield(e, nil) {
				return
			}
			at = e.Off + e.N
		}
	}
}

// nextExtent returns the first extent at or after at, a multiple of grain; an empty one if only a hole is left.
func nextExtent(f *os.File, at, size, grain int64) (Extent, error) {
	start, err := f.Seek(at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return Extent{}, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
		return Extent{Off: at, N: size - at}, nil
	case err != nil:
		return Extent{}, err
	}
	end, err := f.Seek(start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // cut shorter between the two calls
		return Extent{}, nil
	}
	if err != nil {
		return Extent{}, err
	}
	start -= start % grain
	end = min(size, (end+grain-1)/grain*grain)
	return Extent{Off: start, N: max(0, end-start)}, nil
}
