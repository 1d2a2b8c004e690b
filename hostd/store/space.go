package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// space is the account of bytes. A byte is pending from before it is written, then landed, and then held, when its
// chunk is marked; what an eviction takes is landed again until its place is punched. So the sum is never too small,
// and what is written fits in the quota and leaves the reserve free, as far as others leave it.
type space struct {
	fs       disk.FS
	dir      string
	keepFree int64 // 0 means the default

	held atomic.Int64 // data bytes of marked chunks

	mu      sync.Mutex // guards all below
	quota   Quota      // with its defaults
	evictor Evictor
	pending int64 // promised, not on the disk yet
	landed  int64 // on the disk, not held

	// What the file system said last. Our own writes do not change the capacity, those of others do: so it is asked
	// again after some more writes of ours.
	free, reserve int64
	capacity      int64 // bytes that the store could have
	credit        int64 // bytes that may be taken before the next question
}

// maxCredit bounds what is written without a look at what others have written to the same file system.
const maxCredit = 64 << 20

// usage is Usage but for the files.
func (p *space) usage() (Usage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.look()
	return p.sums(), err
}

// look asks the file system. The caller holds mu; statfs does not wait for the disk.
func (p *space) look() error {
	free, total, err := p.fs.Space(p.dir)
	p.free, p.reserve = free, p.keepFree
	if p.reserve == 0 {
		p.reserve = min(total/reservePart, maxReserve)
	}
	p.capacity = max(0, p.held.Load()+p.landed+free-p.reserve)
	p.credit = min(maxCredit, max(0, free-p.reserve)/8)
	return err
}

// sums returns the usage. The caller holds mu.
func (p *space) sums() Usage {
	u := Usage{
		Bytes: p.held.Load(), Arriving: p.pending + p.landed, Quota: p.quota.Bytes, Budget: p.capacity,
		Free: p.free, Reserve: p.reserve,
	}
	if u.Quota > 0 {
		u.Budget = min(u.Budget, u.Quota)
	}
	u.High = u.Budget / 100 * int64(p.quota.High)
	u.Low = u.Budget / 100 * int64(p.quota.Low)
	return u
}

// take promises n bytes to the caller, who gives them back when they are held or will not be, or explains with
// ErrNoSpace why it cannot. Nothing always fits, however much is over the quota.
func (p *space) take(n int64) error {
	if n == 0 {
		return nil
	}
	p.mu.Lock()
	u := p.sums()
	if p.credit < n || u.Bytes+u.Arriving+n > u.Budget {
		if err := p.look(); err != nil {
			p.mu.Unlock()
			return err
		}
		u = p.sums()
	}
	used := u.Bytes + u.Arriving
	if used+n <= u.Budget {
		p.credit -= n
		p.pending += n
		e := p.evictor
		p.mu.Unlock()
		if e != nil && used+n > u.High {
			e.Crowded()
		}
		return nil
	}
	p.mu.Unlock()
	if u.Quota > 0 && used+n > u.Quota {
		return fmt.Errorf("%w within the quota of %d bytes: %d needed, %d left", ErrNoSpace, u.Quota, n, u.Left())
	}
	return fmt.Errorf("%w on the disk of %s: %d bytes needed, %d left (%d free, of which %d are promised to others and %d kept free)",
		ErrNoSpace, p.dir, n, u.Left(), u.Free, u.Arriving, u.Reserve)
}

// giveBack ends what take promised.
func (p *space) giveBack(n int64) {
	p.mu.Lock()
	p.pending -= n
	p.mu.Unlock()
}

// land adds n to what is on the disk but not held.
func (p *space) land(n int64) {
	p.mu.Lock()
	p.landed += n
	p.mu.Unlock()
}

// explain adds the figures to an error of a full disk, on which n bytes were to be written; 0 if unknown.
func (s *Store) explain(err error, n int64) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) { // else it has the figures
		return err
	}
	free, _, spaceErr := s.fs.Space(s.o.Dir)
	if spaceErr != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w (%d bytes free in %s)", err, free, s.o.Dir)
	}
	return fmt.Errorf("%w (%d bytes needed, %d free in %s)", err, n, free, s.o.Dir)
}

// claim is what an Import has on the disk, while it does not know yet how much that will be.
type claim struct {
	store *Store
	bytes atomic.Int64
}

// write takes room for n bytes, asking the evictor if there is none, and has do write them.
func (c *claim) write(ctx context.Context, n int64, do func() error) error {
	p := &c.store.space
	err := p.take(n)
	for ask := 0; errors.Is(err, ErrNoSpace) && ask < maxAsks; ask++ {
		if failed := c.store.askForRoom(ctx, n, err); failed != nil {
			return failed
		}
		err = p.take(n)
	}
	if err != nil {
		return err
	}
	err = do()
	if err == nil {
		c.bytes.Add(n)
		p.land(n)
	}
	p.giveBack(n)
	return err
}

// shared counts n bytes that are in blocks of the source.
func (c *claim) shared(ctx context.Context, n int64) error {
	return c.write(ctx, n, func() error { return nil })
}

// release ends the claim: what it counted is held by a file now, or gone.
func (c *claim) release() { c.store.space.land(-c.bytes.Swap(0)) }
