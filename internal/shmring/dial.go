package shmring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// lookAgain is how often Dial looks while every free channel still has bytes that the host has not read.
const lookAgain = 10 * time.Millisecond

// errRestarted: the host restarted in the middle of a call.
var errRestarted = errors.New("the host restarted")

// Dial opens a connection from the guest to the host that serves the region at path. It claims a free channel, by a
// lock that the kernel frees when the process dies, and waits until the host answers or ctx ends. It fails with
// ErrNoRegion, ErrNotServed, ErrBusy or the error of ctx.
func Dial(ctx context.Context, path string, o Options) (*Conn, error) {
	o = o.withDefaults()
	for {
		c, err := dial(ctx, path, o)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, errRestarted) {
			return nil, &net.OpError{Op: "dial", Net: "shm", Addr: channelAddr{path, -1}, Err: err}
		}
	}
}

func dial(ctx context.Context, path string, o Options) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, size, err := openGuest(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	m, err := mapFile(f, size, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		f.Close()
		return nil, err
	}
	c, err := call(ctx, m, f, size, o)
	if err != nil {
		f.Close() // and its lock
		m.release()
		return nil, err
	}
	return c, nil
}

// call claims a channel and calls the host. The connection owns m and f if it returns one.
func call(ctx context.Context, m *mapping, f *os.File, size int64, o Options) (*Conn, error) {
	l, _, epoch, err := m.header(size)
	if err != nil {
		return nil, err
	}
	if epoch == 0 {
		return nil, ErrNotServed
	}
	channel, err := claim(ctx, m, f, l, o)
	if err != nil {
		return nil, err
	}
	c := newConn(m, l, channel, false, random(), o)
	c.epoch = epoch
	c.free = func() {
		lock(f, channel, unix.F_UNLCK) // a mapping that is still in use would keep it
		f.Close()
	}
	if err := c.announce(); err != nil {
		return nil, err
	}
	if err := theHub.add(c); err != nil {
		c.renounce()
		return nil, err
	}
	if o.Ring != nil {
		o.Ring()
	}
	if err := c.answer(ctx); err != nil {
		theHub.remove(c)
		c.renounce()
		return nil, err
	}
	return c, nil
}

// announce makes the guest's words those of a new connection, and calls. The generation of the predecessor goes first,
// so that the host does not take the words for its.
func (c *Conn) announce() (err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	c.call.Store(0)
	c.own.reset()
	c.own.generation.Store(0)
	c.beat = c.own.beat.Load() + 1
	c.own.beat.Store(c.beat)
	c.in.naps++
	c.own.readerAsleep.Store(c.in.naps) // Dial sleeps
	c.call.Store(c.generation)
	return nil
}

// answer waits for the host's.
func (c *Conn) answer(ctx context.Context) error {
	for !c.answered.Load() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.in.bell:
		}
		if !c.over.Load() {
			continue
		}
		if err := c.failure(); !errors.Is(err, ErrGone) || errors.Is(err, errTruncated) {
			return err
		}
		return c.unanswered()
	}
	return c.awake()
}

func (c *Conn) awake() (err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	c.in.naps++
	c.own.readerAsleep.Store(c.in.naps)
	return nil
}

// unanswered says why the host is not there to answer: another came, or none.
func (c *Conn) unanswered() (err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	if epoch := c.epochWord.Load(); epoch != c.epoch {
		return errRestarted
	}
	return fmt.Errorf("%w: it stands still", ErrNotServed)
}

// How well a channel that nobody in the guest has locked suits a new connection.
const (
	unused   = iota // the host has no connection
	orphaned        // it has one whose guest is gone without a word
	draining        // it has one that the guest closed, and may still read what that wrote
)

// claim locks the channel that suits best. If all that are free are draining, it waits, up to the Timeout.
func claim(ctx context.Context, m *mapping, f *os.File, l layout, o Options) (int, error) {
	for waited := time.Duration(0); ; waited += lookAgain {
		worst := orphaned
		if waited >= o.Timeout {
			worst = draining
		}
		free := false
		for want := unused; want <= worst; want++ {
			for i := range l.channels {
				if err := lock(f, i, unix.F_WRLCK); err != nil {
					if err == errLocked {
						continue
					}
					return 0, err
				}
				free = true
				is, err := m.use(l, i)
				if err != nil {
					return 0, err
				}
				if is == want {
					return i, nil
				}
				if err := lock(f, i, unix.F_UNLCK); err != nil {
					return 0, err
				}
			}
		}
		if !free {
			return 0, ErrBusy
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(lookAgain):
		}
	}
}

// use says how a channel is used that is locked by nobody else.
func (m *mapping) use(l layout, channel int) (use int, err error) {
	defer m.guard(debug.SetPanicOnFault(true), &err)
	host, guest := m.page(l.hostPage(channel)), m.page(l.guestPage(channel))
	generation := host.generation.Load()
	switch {
	case generation == 0 || host.flags.Load()&flagClosed != 0:
		return unused, nil
	case m.word(callsPage+8*channel).Load() == generation && guest.flags.Load()&flagClosed != 0:
		return draining, nil
	default:
		return orphaned, nil
	}
}

var errLocked = errors.New("locked")

// lock takes or frees the lock of a channel, the byte of the file with its number. The lock belongs to f: other
// openers, also in this process, do not have it, and it ends with f.
func lock(f *os.File, channel int, kind int16) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{
		Type: kind, Whence: io.SeekStart, Start: int64(channel), Len: 1,
	})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return errLocked
	}
	if err != nil {
		return fmt.Errorf("lock channel %d: %w", channel, err)
	}
	return nil
}
