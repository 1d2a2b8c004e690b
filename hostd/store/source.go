package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"syscall"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// regular is a Source: a regular file as it was when it was opened.
type regular struct {
	*os.File
	before fs.FileInfo
}

// Size implements Source.
func (r regular) Size() int64 { return r.before.Size() }

// Extents implements Source.
func (r regular) Extents(size, grain int64) iter.Seq2[content.Extent, error] {
	return content.Extents(r.File, size, grain)
}

// Unchanged implements Source: it compares what stat says now with what it said at the beginning. The time of the last
// change of the inode is part of it: unlike the time of modification it cannot be set back.
func (r regular) Unchanged() error {
	after, err := r.Stat()
	if err != nil {
		return err
	}
	a, aok := r.before.Sys().(*syscall.Stat_t)
	b, bok := after.Sys().(*syscall.Stat_t)
	if !aok || !bok || a.Size != b.Size || a.Mtim != b.Mtim || a.Ctim != b.Ctim {
		return ErrChanged
	}
	return nil
}

// stream is a Source of which only the name and Read are used.
type stream struct {
	name string
	io.Reader
}

func (s stream) Name() string                                        { return s.name }
func (stream) Size() int64                                           { return 0 }
func (stream) Unchanged() error                                      { return nil }
func (stream) ReadAt([]byte, int64) (int, error)                     { return 0, errors.ErrUnsupported }
func (stream) Extents(int64, int64) iter.Seq2[content.Extent, error] { return nil }

// readable is a Source whose faults are told from those of the store's own disk.
type readable struct{ Source }

// ReadAt implements Source.
func (r readable) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Source.ReadAt(p, off)
	return n, unreadable(err)
}

// unreadable makes an ErrUnreadable of what reading a source has come to, unless it is the end or knows its reason.
func unreadable(err error) error {
	if err == nil || errors.Is(err, io.EOF) || hasReason(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreadable, err)
}

// hasReason reports whether an error says more than that an operation has failed.
func hasReason(err error) bool {
	why := reason.Of(err)
	return why != reason.Unexpected && why != reason.DiskError
}
