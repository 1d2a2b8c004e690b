package shmring

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// callEvery is the least time between two connections of one channel, however often the guest calls.
	callEvery = time.Millisecond
	// complainEvery is the least time between two complaints of one region in the log.
	complainEvery = time.Minute
)

// A Listener is the host's side of a region. It is a net.Listener whose Accept returns *Conn.
type Listener struct {
	m    *mapping
	file *os.File // has the lock
	addr channelAddr
	o    Options
	l    layout

	ready  chan struct{} // pending is not empty
	done   chan struct{} // closed by Close
	rang   atomic.Bool   // Wake was called
	muted  atomic.Bool   // tests: stand still as if dead
	closed sync.Once

	mu        sync.Mutex // guards what follows
	slots     []slot
	pending   []*Conn // not accepted, at most one a channel
	over      error
	epoch     uint64
	beat      uint64
	complaint time.Time
}

// A slot is a channel as the listener sees it.
type slot struct {
	call   *atomic.Uint64
	seen   uint64 // the last generation that was noticed
	conn   *Conn  // that was made of it; nil once it is closed
	opened time.Time
}

// Listen serves the region that the file at path is to be: it writes a new header, which ends the connections of an
// earlier host, and takes calls from then on. The path may be no symbolic link, the file must be a regular one of whole
// pages and within MinSize and MaxSize. The file stays the caller's: the Listener neither owns nor removes it. A second
// Listener of the same file fails as long as the first is open.
func Listen(path string, o Options) (*Listener, error) {
	l, err := listen(path, o.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("listen at region %s: %w", path, err)
	}
	return l, nil
}

func listen(path string, o Options) (*Listener, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	l := &Listener{file: f, addr: channelAddr{path, -1}, o: o, ready: make(chan struct{}, 1), done: make(chan struct{})}
	if err := l.open(); err != nil {
		f.Close()
		return nil, err
	}
	if err := theHub.add(l); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Listener) open() error {
	size, err := regionSize(l.file)
	if err != nil {
		return err
	}
	if l.l, err = newLayout(size, l.o.Channels); err != nil {
		return err
	}
	if err := unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another listener serves it: %w", unix.EADDRINUSE)
		}
		return err
	}
	if l.m, err = mapFile(l.file, size, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	l.slots = make([]slot, l.l.channels)
	if err := l.format(); err != nil {
		l.m.release()
		return err
	}
	return nil
}

// format writes the header and the host's pages, and marks the region as served by a new epoch. Calls that were made
// before are not of this epoch.
func (l *Listener) format() (err error) {
	defer l.m.guard(debug.SetPanicOnFault(true), &err)
	word := l.m.word
	word(offEpoch).Store(0)
	for _, w := range l.fixed() {
		word(w.off).Store(w.value)
	}
	l.beat++
	word(offBeat).Store(l.beat)
	for i := range l.slots {
		s := &l.slots[i]
		s.call = word(callsPage + 8*i)
		s.seen = s.call.Load()
		own := l.m.page(l.l.hostPage(i))
		own.generation.Store(0)
		own.reset()
	}
	l.epoch = random()
	word(offEpoch).Store(l.epoch)
	return nil
}

// fixed are the words of the header that stay what they are.
func (l *Listener) fixed() [6]struct {
	off   int
	value uint64
} {
	return [...]struct {
		off   int
		value uint64
	}{
		{offMagic, magic},
		{offVersion, version | uint64(l.l.channels)<<32},
		{offSize, uint64(l.l.size)},
		{offCapacity, uint64(l.l.capacity)},
		{offUUID, binary.LittleEndian.Uint64(l.o.UUID[:8])},
		{offUUID + 8, binary.LittleEndian.Uint64(l.o.UUID[8:])},
	}
}

// random returns a number that is not 0 and that nobody has used before.
func random() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:])
		if n := binary.LittleEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

// Addr names the region.
func (l *Listener) Addr() net.Addr { return l.addr }

// Channels returns how many connections there can be at a time.
func (l *Listener) Channels() int { return l.l.channels }

// Wake tells that a bell rang: look at the region now.
func (l *Listener) Wake() {
	l.rang.Store(true)
	theHub.alarm.ring(true)
}

// Accept waits for the guest to open a connection, a *Conn. It fails with net.ErrClosed after Close, and with ErrGone
// if the file was made shorter.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		if c, err := l.take(); c != nil {
			return c, nil
		} else if err != nil {
			return nil, &net.OpError{Op: "accept", Net: "shm", Addr: l.addr, Err: err}
		}
		select {
		case <-l.ready:
		case <-l.done:
		}
	}
}

// take returns the connection that has waited longest, or says why there will be none; nothing if it is to wait.
func (l *Listener) take() (*Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return nil, l.over
	}
	if len(l.pending) == 0 {
		return nil, nil
	}
	c := l.pending[0]
	l.pending = slices.Delete(l.pending, 0, 1)
	l.announce()
	return c, nil
}

// announce lets one Accept go on if there is something for it.
func (l *Listener) announce() {
	if len(l.pending) > 0 {
		select {
		case l.ready <- struct{}{}:
		default:
		}
	}
}

// Close marks the region as not served and ends its connections: with net.ErrClosed or ErrGone here, with ErrGone at
// the guest unless it is only to read what was left by a connection that has been closed. The file stays.
func (l *Listener) Close() error {
	var err error
	l.closed.Do(func() {
		theHub.remove(l)
		l.stop(net.ErrClosed)
		l.farewell()
		l.m.release()
		unix.Flock(int(l.file.Fd()), unix.LOCK_UN) // a mapping that is still in use would keep it
		err = l.file.Close()
	})
	return err
}

// stop ends everything with err at the listener and ErrGone at its connections.
func (l *Listener) stop(err error) {
	l.mu.Lock()
	if l.over != nil {
		l.mu.Unlock()
		return
	}
	l.over = err
	close(l.done)
	conns := l.conns()
	l.pending = nil
	l.mu.Unlock()
	for _, c := range conns {
		c.fail(ErrGone)
		c.detach(false)
	}
}

// conns returns the connections that are not closed. The caller holds mu.
func (l *Listener) conns() []*Conn {
	var all []*Conn
	for i := range l.slots {
		if c := l.slots[i].conn; c != nil {
			all = append(all, c)
		}
	}
	return all
}

func (l *Listener) farewell() {
	var fault error
	defer l.m.guard(debug.SetPanicOnFault(true), &fault)
	l.m.word(offEpoch).Store(0)
}
