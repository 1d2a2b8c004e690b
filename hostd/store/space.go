package store

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The account of space. A file is reserved for as a whole when it is created, so that what the store has agreed
// to hold fits in the quota, and in the disk as far as nobody else fills it.

// reserve takes n bytes from the quota, or explains why it cannot.
func (s *Store) reserve(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.Quota > 0 && n > s.o.Quota-s.reserved {
		return fmt.Errorf("%w within the quota of %d bytes: %d needed, %d left", ErrNoSpace, s.o.Quota, n, max(0, s.o.Quota-s.reserved))
	}
	s.reserved += n
	return nil
}

func (s *Store) unreserve(n int64) {
	s.mu.Lock()
	s.reserved -= n
	s.mu.Unlock()
}

// room reports whether n more bytes fit on the disk beside what is promised to other files but not written yet.
func (s *Store) room(n int64) error {
	free, _, err := s.fs.Space(s.o.Dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	promised := s.reserved - s.held.Load() - s.arriving.Load()
	s.mu.Unlock()
	if left := free - max(0, promised) - s.o.KeepFree; n > left {
		return fmt.Errorf("%w on the disk of %s: %d bytes needed, %d left (%d free, %d promised to other files, %d kept free)",
			ErrNoSpace, s.o.Dir, n, max(0, left), free, max(0, promised), s.o.KeepFree)
	}
	return nil
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

// claim is what an Import has reserved, chunk by chunk, while it does not know yet how much it will need.
type claim struct {
	store *Store
	bytes atomic.Int64
}

// add reserves n bytes that are about to be written.
func (c *claim) add(n int64) error {
	if err := c.store.room(n); err != nil {
		return err
	}
	return c.addShared(n)
}

// addShared reserves n bytes that another file's blocks hold.
func (c *claim) addShared(n int64) error {
	if err := c.store.reserve(n); err != nil {
		return err
	}
	c.store.arriving.Add(n)
	c.bytes.Add(n)
	return nil
}

// settle leaves the reservation to the file that was made of it.
func (c *claim) settle() { c.store.arriving.Add(-c.bytes.Swap(0)) }

// release gives back what was reserved, unless it is settled.
func (c *claim) release() {
	n := c.bytes.Swap(0)
	c.store.arriving.Add(-n)
	c.store.unreserve(n)
}
