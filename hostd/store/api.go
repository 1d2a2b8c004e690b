package store

import (
	"context"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// Options says where a store is and what it may use.
type Options struct {
	Dir      string                // made if it does not exist
	FS       disk.FS               // nil means disk.OS
	Quota    int64                 // bytes of data that files may have together, 0 = no limit; see Usage
	KeepFree int64                 // bytes of the file system that Create and Import leave free
	Logger   hclog.Logger          // nil means none
	Metrics  prometheus.Registerer // nil means none

	// OnDurable, if set, is called after the set that File.Durable returns has changed, or a file was added
	// or removed. It must not block and must not call Close.
	OnDurable func(*File)
}

// Store is the set of files on this host. All methods are safe for concurrent use.
type Store struct{}

// Usage says what the store takes.
type Usage struct {
	Files    int   // files, complete or not
	Bytes    int64 // data bytes held now
	Reserved int64 // data bytes of all files when they are complete; the quota is on these
	Quota    int64 // 0 = no limit
	Free     int64 // bytes free in the file system
}

// Open opens the store at o.Dir.
func Open(o Options) (*Store, error) { panic("todo") }

// Close flushes and ends.
func (s *Store) Close() error { panic("todo") }

// ImportOptions says how a file is taken in.
type ImportOptions struct {
	ChunkSize int // 0 means content.ChunkSizeFor
	Progress  func(done, total int64)
}

// Import takes in the whole of f.
func (s *Store) Import(ctx context.Context, f *os.File, o ImportOptions) (*File, error) {
	panic("todo")
}

// Create returns the file with this manifest.
func (s *Store) Create(ctx context.Context, m *content.Manifest) (*File, error) { panic("todo") }

// Get returns the file with this id.
func (s *Store) Get(id content.Digest) (*File, bool) { panic("todo") }

// List returns all files, sorted by id.
func (s *Store) List() []*File { panic("todo") }

// Remove removes the file with this id.
func (s *Store) Remove(id content.Digest) error { panic("todo") }

// Usage says what the store takes.
func (s *Store) Usage() Usage { panic("todo") }

// Scrub re-hashes every chunk held, at no more than rate bytes/s (0 = no limit), and reports each file.
func (s *Store) Scrub(ctx context.Context, rate int64, report func(f *File, bad []int, err error)) error {
	panic("todo")
}

// File is one content in the store. All methods are safe for concurrent use.
type File struct{}

// ID returns the id of the content.
func (f *File) ID() content.Digest { panic("todo") }

// Manifest returns the manifest.
func (f *File) Manifest() *content.Manifest { panic("todo") }

// Has reports whether chunk i can be read. A hole always can.
func (f *File) Has(i int) bool { panic("todo") }

// Have returns a copy of the set of chunks that can be read, holes included.
func (f *File) Have() content.Bits { panic("todo") }

// Durable returns a copy of the set of chunks that survive a loss of power, holes included.
func (f *File) Durable() content.Bits { panic("todo") }

// Complete reports whether every chunk can be read.
func (f *File) Complete() bool { panic("todo") }

// HeldBytes returns the data bytes held now.
func (f *File) HeldBytes() int64 { panic("todo") }

// ReadChunk reads and verifies chunk i into buf (grown if it is too small) and returns it.
func (f *File) ReadChunk(i int, buf []byte) ([]byte, error) { panic("todo") }

// WriteChunk verifies and writes chunk i.
func (f *File) WriteChunk(i int, p []byte) error { panic("todo") }

// Sync makes everything written so far durable.
func (f *File) Sync(ctx context.Context) error { panic("todo") }

// ExportMode says how Export may hand out the bytes.
type ExportMode int

// Modes of Export.
const (
	Auto     ExportMode = iota // share the blocks copy-on-write where the file system can, else Copy
	HardLink                   // a second name, made read-only, for the store's own file
	Copy                       // a sparse copy of its own
)

// Export writes the content to dest.
func (f *File) Export(ctx context.Context, dest string, mode ExportMode, progress func(done, total int64)) error {
	panic("todo")
}

// Verify re-hashes every chunk held and returns those that were damaged, which it unmarks.
func (f *File) Verify(ctx context.Context, progress func(done, total int64)) (bad []int, err error) {
	panic("todo")
}
