// Package shmring is the link between a hypervisor host and one guest through memory that both map: on the host a file
// in /dev/shm, in the guest BAR 2 of an ivshmem-plain device. A region has a few channels; each carries one connection
// at a time, a *Conn, which is a net.Conn over two rings with one writer and one reader each. docs/shm.md has the
// layout, byte by byte.
//
// The host trusts nothing that the other side can write, which is every byte of the region. It keeps the layout and
// its own positions in memory of its own; a position of the guest is loaded once, checked, and only then used. Whatever
// the guest writes, the worst is that its own connections end with ErrCorrupt or ErrGone; a region costs the host no
// more than Channels connections, each new one no sooner than its predecessor was closed. A file that is made shorter
// under the mapping ends connections with ErrGone and nothing else.
//
// A side that died is noticed by its counter that stands still, and time in which one's own process did not run is not
// held against the other. A process that waits spins for a moment where that has helped before, and then sleeps until
// the one goroutine that watches all regions of the process sees a change, or until a bell rings (Options.Ring, Wake).
//
// It is the only package of the module with unsafe: it loads and stores words of the mapping atomically.
package shmring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

const (
	// DefaultSize, MinSize and MaxSize of a region, in bytes.
	DefaultSize = 16 << 20
	MinSize     = 1 << 20
	MaxSize     = 1 << 30
	// DefaultChannels is how many connections a region carries at a time.
	DefaultChannels = 4

	maxChannels = 64
	version     = 1
	pageSize    = 4096
)

var (
	// ErrNoRegion: the path is no formatted region, or one of an unknown version.
	ErrNoRegion = errors.New("not a formatted shared-memory region")
	// ErrNotServed: the region is formatted, but no host serves it now.
	ErrNotServed = errors.New("no host serves the shared-memory region")
	// ErrBusy: all channels are in use by other connections of the guest.
	ErrBusy = errors.New("all channels of the shared-memory region are in use")
	// ErrCorrupt: the other side broke the rules of the ring; the connection is dead.
	ErrCorrupt = errors.New("the other side broke the rules of the ring")
	// ErrGone: the other side died, restarted or was replaced; the connection is dead.
	ErrGone = errors.New("the other side of the shared memory is gone")

	errTruncated = fmt.Errorf("%w: the file has become shorter", ErrGone)
)

// Options of one side of a region. The zero value is fit for use.
type Options struct {
	UUID     [16]byte      // of the domain, for whoever looks at the region; host side
	Channels int           // host side, at most 64; 0 = DefaultChannels
	Timeout  time.Duration // the other side's counter standing still this long is ErrGone; 0 = 5 s, at least 100 ms
	Spin     time.Duration // the longest that a waiting side spins before it sleeps; 0 = 50 µs, NoSpin = not at all
	// Paused says that the other side stands still and cannot count: its counter is not held against it. Host side; nil =
	// never.
	Paused func() bool
	// Ring is called after this side published something for a peer that has said it sleeps, at most once a sleep. It
	// must not block, nor call anything of the package but Wake. nil = none: the sleeper looks by itself.
	Ring   func()
	Logger hclog.Logger // nil is silent
}

// NoSpin is for a connection on which other goroutines of the process have work to do while one waits: it spins not at
// all.
const NoSpin time.Duration = -1

const (
	defaultTimeout = 5 * time.Second
	minTimeout     = 100 * time.Millisecond
	defaultSpin    = 50 * time.Microsecond
)

func (o Options) withDefaults() Options {
	if o.Channels == 0 {
		o.Channels = DefaultChannels
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	o.Timeout = max(o.Timeout, minTimeout)
	if o.Spin == 0 {
		o.Spin = defaultSpin
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return o
}

// Where things are in a region: a header page, a page of calls, two pages of control words a channel, two rings a
// channel. Words that different sides write, or that change at different rates, are in cache lines of their own.
const (
	offMagic    = 0
	offVersion  = 8 // version u32, channels u32
	offSize     = 16
	offCapacity = 24
	offUUID     = 32
	offEpoch    = 64
	offBeat     = 128

	callsPage = 1 * pageSize // one generation a channel, written by the guest

	offGeneration   = 0 // host's page only: the call that it answers
	offFlags        = 8
	offWritten      = 64
	offRead         = 128
	offReaderAsleep = 192
	offWriterAsleep = 256
	offGuestBeat    = 320 // guest's page only
)

var magic = binary.LittleEndian.Uint64([]byte("VSSHRING"))

// The flags of a side.
const (
	flagEOF    = 1 << 0 // it writes nothing more; its position is final
	flagClosed = 1 << 1 // nor does it read
)

// A layout says where the channels of a region are.
type layout struct {
	size     int64
	channels int
	capacity int // of one ring, bytes; a multiple of pageSize
}

// newLayout gives the rings of a region all that there is.
func newLayout(size int64, channels int) (layout, error) {
	if channels < 1 || channels > maxChannels {
		return layout{}, fmt.Errorf("%d channels, not 1 to %d", channels, maxChannels)
	}
	pages := int(size/pageSize) - (2 + 2*channels)
	l := layout{size: size, channels: channels, capacity: pages / (2 * channels) * pageSize}
	if l.capacity < pageSize {
		return layout{}, fmt.Errorf("%d bytes are too few for %d channels", size, channels)
	}
	return l, nil
}

// valid says whether a layout that somebody else wrote lies within size bytes.
func (l layout) valid(size int64) bool {
	if l.size < MinSize || l.size > size || l.channels < 1 || l.channels > maxChannels ||
		l.capacity < pageSize || l.capacity > MaxSize || l.capacity%pageSize != 0 {
		return false
	}
	return int64(2+2*l.channels)*pageSize+int64(2*l.channels)*int64(l.capacity) <= l.size
}

func (l layout) hostPage(channel int) int  { return (2 + 2*channel) * pageSize }
func (l layout) guestPage(channel int) int { return (3 + 2*channel) * pageSize }

// ring is the offset of a channel's ring from host to guest (0), or from guest to host (1).
func (l layout) ring(channel, direction int) int {
	return (2+2*l.channels)*pageSize + (2*channel+direction)*l.capacity
}

// A mapping of a region. It goes when its last user has released it.
type mapping struct {
	path string
	mem  []byte
	refs atomic.Int32
}

// mapFile maps the first size bytes. Only machines that store words in little-endian order can.
func mapFile(f *os.File, size int64, prot int) (*mapping, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, fmt.Errorf("map %s: %w", f.Name(), errors.ErrUnsupported)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	m := &mapping{path: f.Name(), mem: mem}
	m.refs.Store(1)
	return m, nil
}

func (m *mapping) release() {
	if m.refs.Add(-1) == 0 {
		unix.Munmap(m.mem)
	}
}

// word is the 8-byte aligned word at an offset that is not the other side's choice.
func (m *mapping) word(off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&m.mem[off]))
}

// guard makes an error of a fault in the mapping, which is what an access behind the end of a file that has become
// shorter causes. Use: defer m.guard(debug.SetPanicOnFault(true), &err).
func (m *mapping) guard(before bool, err *error) {
	debug.SetPanicOnFault(before)
	e := recover()
	if e == nil {
		return
	}
	fault, ok := e.(interface{ Addr() uintptr })
	start := uintptr(unsafe.Pointer(unsafe.SliceData(m.mem)))
	if !ok || fault.Addr() < start || fault.Addr() >= start+uintptr(len(m.mem)) {
		panic(e)
	}
	*err = errTruncated
}

// header reads the header and checks it against the size of what was mapped. The epoch is 0 if nobody serves the
// region.
func (m *mapping) header(size int64) (l layout, uuid [16]byte, epoch uint64, err error) {
	defer m.guard(debug.SetPanicOnFault(true), &err)
	for range 1000 { // a host that starts writes all of it in a moment
		epoch = m.word(offEpoch).Load()
		if l, uuid, err = m.fields(size); m.word(offEpoch).Load() == epoch {
			return l, uuid, epoch, err
		}
	}
	return l, uuid, 0, ErrNotServed
}

func (m *mapping) fields(size int64) (l layout, uuid [16]byte, err error) {
	v := m.word(offVersion).Load()
	l = layout{
		size:     int64(m.word(offSize).Load()),
		channels: int(v >> 32),
		capacity: int(m.word(offCapacity).Load()),
	}
	switch {
	case m.word(offMagic).Load() != magic:
		return l, uuid, fmt.Errorf("%w: no header", ErrNoRegion)
	case uint32(v) != version:
		return l, uuid, fmt.Errorf("%w: version %d, not %d", ErrNoRegion, uint32(v), version)
	case !l.valid(size):
		return l, uuid, fmt.Errorf("%w: its header does not fit %d bytes", ErrNoRegion, size)
	}
	binary.LittleEndian.PutUint64(uuid[:8], m.word(offUUID).Load())
	binary.LittleEndian.PutUint64(uuid[8:], m.word(offUUID+8).Load())
	return l, uuid, nil
}

// Create makes the file of a region for a hypervisor that will map it: mode 0600, size a power of two (the size of a
// PCI BAR) from MinSize to MaxSize, owned by uid and gid, of which -1 leaves the creator's. The memory is reserved, for
// a guest that touches a page which cannot be had is stopped. A file that exists is an error (fs.ErrExist).
func Create(path string, size int64, uid, gid int) error {
	if size < MinSize || size > MaxSize || size&(size-1) != 0 {
		return fmt.Errorf("create region %s: %d bytes, not a power of two from %d to %d", path, size, MinSize, MaxSize)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("create region: %w", err)
	}
	if err := fillFile(f, size, uid, gid); err != nil {
		f.Close()
		os.Remove(path)
		return fmt.Errorf("create region %s: %w", path, err)
	}
	return f.Close()
}

func fillFile(f *os.File, size int64, uid, gid int) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) { // not in /dev/shm; a file system for tests, say
		err = f.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("reserve %d bytes: %w", size, err)
	}
	if err := f.Chmod(0o600); err != nil { // whatever the umask is
		return err
	}
	if uid == -1 && gid == -1 {
		return nil
	}
	return f.Chown(uid, gid)
}

// Info is what the header of a region says.
type Info struct {
	Size     int64    // bytes
	Channels int      // connections at a time
	UUID     [16]byte // of the domain, as the host has written it
	Served   bool     // a host has said that it serves the region, and not that it ceased to; it may have died since
}

// Probe reads the header of the region at path and nothing else. It fails with ErrNoRegion if there is none.
func Probe(path string) (Info, error) {
	f, size, err := openGuest(path, os.O_RDONLY)
	if err != nil {
		return Info{}, fmt.Errorf("probe region: %w", err)
	}
	defer f.Close()
	m, err := mapFile(f, pageSize, unix.PROT_READ)
	if err != nil {
		return Info{}, fmt.Errorf("probe region: %w", err)
	}
	defer m.release()
	l, uuid, epoch, err := m.header(size)
	if err != nil {
		return Info{}, fmt.Errorf("probe region %s: %w", path, err)
	}
	return Info{Size: l.size, Channels: l.channels, UUID: uuid, Served: epoch != 0}, nil
}

// openGuest opens a region as a guest does, who may trust its own file system.
func openGuest(path string, mode int) (*os.File, int64, error) {
	if err := enableDevice(path); err != nil {
		return nil, 0, err
	}
	f, err := os.OpenFile(path, mode|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	size, err := regionSize(f)
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%w: %w", ErrNoRegion, err)
	}
	return f, size, nil
}

// regionSize checks that f may be the file of a region.
func regionSize(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	switch size := info.Size(); {
	case info.Mode().Type() != 0:
		return 0, &fs.PathError{Op: "open", Path: f.Name(), Err: errors.New("not a regular file")}
	case size < MinSize || size > MaxSize || size%pageSize != 0:
		err := fmt.Errorf("%d bytes, not whole pages from %d to %d bytes", size, MinSize, MaxSize)
		return 0, &fs.PathError{Op: "open", Path: f.Name(), Err: err}
	default:
		return size, nil
	}
}
