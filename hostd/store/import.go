package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// ImportOptions says how a file is taken in.
type ImportOptions struct {
	ChunkSize int                     // bytes; 0 means content.ChunkSizeFor the size
	Progress  func(done, total int64) // bytes of the source, holes included; total is 0 if it is not known; calls do not overlap
}

// Source is what Import reads: a file or a device. ReadAt and Extents are called concurrently.
type Source interface {
	content.Source
	io.Reader
	Name() string
	// Size is how many bytes it says that it has.
	Size() int64
	// Unchanged is ErrChanged if anybody has written to it since it was opened.
	Unchanged() error
}

// Import takes in the whole of src, a regular file: it shares the blocks where the file system can and hashes its
// own copy, or else reads, hashes and writes in one go; holes are not read. When it returns, the content is
// durable. After an error, the end of ctx included, nothing of it is left. It moves the file offset of src.
//
// A content that is here already is found again, after it was read, and needs no room. A file that has more or fewer
// bytes than it says, like those in /proc, is read to its end.
//
// Errors: ErrNotRegular; ErrChanged if src was written to meanwhile; ErrUnreadable; ErrNoSpace; ErrClosed.
func (s *Store) Import(ctx context.Context, src *os.File, o ImportOptions) (*File, error) {
	st, err := src.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: %v", ErrNotRegular, st.Mode())
	}
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", src.Name(), err)
	}
	return s.importSource(ctx, &intake{src: regular{src, st}, file: src, o: o})
}

// ImportDevice is Import for what is no regular file but has a size, such as a block device.
func (s *Store) ImportDevice(ctx context.Context, src Source, o ImportOptions) (*File, error) {
	return s.importSource(ctx, &intake{src: src, o: o})
}

// ImportStream is Import for bytes that can be read only once, up to io.EOF. It keeps them on the disk until it knows
// how many they are. Without room for them it fails, also if the content is here already.
func (s *Store) ImportStream(ctx context.Context, name string, r io.Reader, o ImportOptions) (*File, error) {
	return s.importSource(ctx, &intake{src: stream{name, r}, once: true, o: o})
}

func (s *Store) importSource(ctx context.Context, in *intake) (*File, error) {
	in.store, in.claim = s, &claim{store: s}
	f, err := in.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", in.src.Name(), err)
	}
	return f, nil
}

// intake is one import on its way into incoming/.
type intake struct {
	store *Store
	src   Source
	file  *os.File // whose blocks may be shared; nil if none
	once  bool     // the source can be read only once
	claim *claim
	o     ImportOptions
}

func (in *intake) run(ctx context.Context) (*File, error) {
	s := in.store
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	dir := s.layout.fresh()
	defer in.claim.release()
	defer s.sweep(dir) // which is gone if all went well
	var m *content.Manifest
	if err = s.fs.MkdirAll(dir, dirPerm); err == nil {
		m, err = in.read(ctx, dir)
	}
	if errors.Is(err, ErrNoSpace) {
		s.sweep(dir)
		in.claim.release()
		return in.recognise(ctx, s.explain(err, 0))
	}
	if err != nil {
		return nil, err
	}
	f, err := s.adopt(ctx, dir, m)
	if err != nil {
		return nil, s.explain(err, 0)
	}
	s.metrics.importedBytes.Add(float64(m.DataBytes()))
	return f, nil
}

// read makes dir/data hold the source, durably, and returns its manifest.
func (in *intake) read(ctx context.Context, dir string) (_ *content.Manifest, err error) {
	data, err := in.store.fs.OpenFile(dataIn(dir), os.O_RDWR|os.O_CREATE|os.O_EXCL, filePerm)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	var m *content.Manifest
	switch {
	case in.once:
		m, err = in.pour(ctx, data)
	case in.file != nil:
		if m, err = in.share(ctx, data); errors.Is(err, disk.ErrNoClone) {
			m, err = in.copy(ctx, data)
		}
	default:
		m, err = in.copy(ctx, data)
	}
	if err != nil {
		return nil, err
	}
	return m, data.Sync()
}

// share clones the source, which takes a moment, and hashes the clone, which nobody changes.
func (in *intake) share(ctx context.Context, data disk.File) (*content.Manifest, error) {
	if err := data.CloneFrom(in.file); err != nil {
		return nil, err
	}
	if err := in.src.Unchanged(); err != nil {
		return nil, err
	}
	m, err := in.cut(ctx, data, in.src.Size(), in.options(in.src.Size()))
	if err != nil {
		return nil, err
	}
	return m, in.claim.shared(ctx, m.DataBytes())
}

// copy reads the source once; what is hashed is what is written.
func (in *intake) copy(ctx context.Context, data disk.File) (*content.Manifest, error) {
	size := in.src.Size()
	if err := data.Truncate(size); err != nil {
		return nil, err
	}
	o := in.options(size)
	o.Each = func(i int, p []byte) error {
		return in.claim.write(ctx, int64(len(p)), func() error {
			_, err := data.WriteAt(p, int64(i)*int64(o.ChunkSize))
			return err
		})
	}
	m, err := in.cut(ctx, readable{in.src}, size, o)
	if errors.Is(err, disk.ErrNoSpace) {
		return nil, fmt.Errorf("%w, in taking in a file of %d bytes", err, size)
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	if changed := in.src.Unchanged(); changed != nil {
		return nil, errors.Join(changed, err)
	}
	if err == nil {
		if ends, err := in.endsAt(size); ends || err != nil {
			return m, err
		}
	}
	// Nobody has written to it, and it is not as long as it says.
	in.claim.release()
	if err := data.Truncate(0); err != nil {
		return nil, err
	}
	if s, ok := in.src.(io.Seeker); ok { // the look for holes has moved it
		if _, err := s.Seek(0, io.SeekStart); err != nil {
			return nil, unreadable(err)
		}
	}
	in.once = true
	return in.pour(ctx, data)
}

// endsAt reports whether the source has a last byte before size, and none from there on. What is missing at the end
// looks like a hole.
func (in *intake) endsAt(size int64) (bool, error) {
	last, err := in.hasByte(max(0, size-1))
	if err != nil || size == 0 {
		return !last, err
	}
	more, err := in.hasByte(size)
	return last && !more, err
}

func (in *intake) hasByte(off int64) (bool, error) {
	var b [1]byte
	n, err := in.src.ReadAt(b[:], off)
	if n > 0 || errors.Is(err, io.EOF) {
		err = nil
	}
	return n > 0, unreadable(err)
}

// pourBytes is how much of a stream is read at a time, pourGrain what is left out of it if it is zeros.
const pourBytes, pourGrain = 1 << 20, content.MinChunkSize

// pour writes what the source gives, to its end, and cuts that once it is known how much it is.
func (in *intake) pour(ctx context.Context, data disk.File) (*content.Manifest, error) {
	buf := make([]byte, pourBytes)
	var size int64
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		n, err := fill(in.src, buf)
		for at := 0; at < n; at += pourGrain {
			p := buf[at:min(n, at+pourGrain)]
			if content.IsZero(p) {
				continue
			}
			off := size + int64(at)
			failed := in.claim.write(ctx, int64(len(p)), func() error {
				_, err := data.WriteAt(p, off)
				return err
			})
			if failed != nil {
				return nil, failed
			}
		}
		size += int64(n)
		if in.o.Progress != nil {
			in.o.Progress(size, 0)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, unreadable(err)
		}
	}
	if err := data.Truncate(size); err != nil {
		return nil, err
	}
	o := in.options(size)
	o.Progress = nil // it has been told
	m, err := in.cut(ctx, data, size, o)
	if err != nil {
		return nil, err
	}
	return m, in.claim.shared(ctx, max(0, m.DataBytes()-in.claim.bytes.Load())) // a chunk counts whole
}

// fill reads until p is full, or to the end, which is io.EOF. io.ReadFull would take a reader that was cut off for one
// that has ended.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

// cut is content.Cut, with an ErrTooLarge before anything is read.
func (in *intake) cut(ctx context.Context, src content.Source, size int64, o content.ChunkOptions) (*content.Manifest, error) {
	if most := int64(o.ChunkSize) * content.MaxChunks; size > most {
		return nil, fmt.Errorf("%w: it has %d bytes, and in chunks of %d it can have %d", ErrTooLarge, size, o.ChunkSize, most)
	}
	return content.Cut(ctx, src, size, o)
}

func (in *intake) options(size int64) content.ChunkOptions {
	o := content.ChunkOptions{ChunkSize: in.o.ChunkSize}
	if o.ChunkSize == 0 {
		o.ChunkSize = content.ChunkSizeFor(size)
	}
	if in.o.Progress != nil {
		o.Progress = func(done int64) { in.o.Progress(done, size) }
	}
	return o
}

// adopt makes the directory a file of the store, or gives its chunks to the file of the same content.
func (s *Store) adopt(ctx context.Context, dir string, m *content.Manifest) (*File, error) {
	unlatch, err := s.latch(ctx, m.ID())
	if err != nil {
		return nil, err
	}
	defer unlatch()
	if f, ok := s.Get(m.ID()); ok {
		return f, s.completeFrom(ctx, f, dir)
	}
	all := content.NewBits(m.Chunks())
	all.SetRange(0, m.Chunks())
	f, err := s.place(dir, m, all)
	if err != nil {
		return nil, err
	}
	s.add(f)
	return f, nil
}

// recognise reads the source, for which there was no room because of full, once more, to see whether it is here
// already.
func (in *intake) recognise(ctx context.Context, full error) (*File, error) {
	if in.once {
		return nil, full
	}
	o := in.options(in.src.Size())
	o.Progress = nil // it has been told once
	m, err := content.Cut(ctx, readable{in.src}, in.src.Size(), o)
	if err != nil {
		return nil, errors.Join(full, err)
	}
	f, ok := in.store.Get(m.ID())
	if ends, err := in.endsAt(in.src.Size()); !ok || !ends || err != nil {
		return nil, errors.Join(full, err)
	}
	if err := errors.Join(in.src.Unchanged(), f.complete(ctx, in.src)); err != nil {
		return nil, err
	}
	return f, nil
}

// completeFrom writes what f misses from dir/data, and syncs it.
func (s *Store) completeFrom(ctx context.Context, f *File, dir string) (err error) {
	data, err := s.fs.OpenFile(dataIn(dir), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	return f.complete(ctx, data)
}

// complete writes what f misses from a source of the same content, and syncs it.
func (f *File) complete(ctx context.Context, data io.ReaderAt) error {
	defer f.Use()()
	buf := make([]byte, f.manifest.ChunkSize())
	have := f.Have()
	for i, ok := have.NextClear(0); ok; i, ok = have.NextClear(i + 1) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:f.manifest.ChunkLen(i)]
		if _, err := data.ReadAt(p, f.manifest.Offset(i)); err != nil {
			return err
		}
		if err := f.WriteChunk(i, p); err != nil {
			return err
		}
	}
	return f.Sync(ctx)
}
