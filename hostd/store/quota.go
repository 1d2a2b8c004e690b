package store

import (
	"context"
	"errors"
	"fmt"
)

// Defaults of a Quota, and of what is left free.
const (
	DefaultHigh = 90 // percent
	DefaultLow  = 80

	// reservePart of the file system, and no more than maxReserve, stays free unless Options say otherwise: the
	// catalogue's log stands there as well, and must go on when the store is full.
	reservePart = 20
	maxReserve  = 4 << 30

	// maxAsks is how often one operation asks for room before it fails: what was freed may be taken by others.
	maxAsks = 3
)

// Quota says how much a store may take. The budget is Bytes, or what the file system can hold beside its reserve if
// that is less. The watermarks are parts of the budget.
type Quota struct {
	Bytes int64 // data bytes that files may have together; 0 = as much as the file system has
	High  int   // percent at which the evictor is called; 0 = DefaultHigh
	Low   int   // percent down to which it should evict, at most High; 0 = DefaultLow or High if that is less
}

func (q Quota) defaults() Quota {
	if q.High <= 0 || q.High > 100 {
		q.High = DefaultHigh
	}
	if q.Low <= 0 {
		q.Low = DefaultLow
	}
	q.Low = min(q.Low, q.High)
	return q
}

// Evictor makes room in a store. Its methods are called concurrently, and never with a lock of the store held.
type Evictor interface {
	// Crowded says that the store is above its high watermark, or that its quota has changed. It does not block.
	Crowded()
	// MakeRoom is called by an operation that lacks room for need bytes. It returns nil once it has freed something,
	// however much: the operation looks again. An error says why nothing can be freed.
	MakeRoom(ctx context.Context, need int64) error
}

// Left returns how many bytes may still be written.
func (u Usage) Left() int64 { return max(0, u.Budget-u.Bytes-u.Arriving) }

// SetEvictor makes e the one who is asked for room. It is called before anything is written.
func (s *Store) SetEvictor(e Evictor) {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	s.space.evictor = e
}

// SetQuota changes the quota. What is over it stays until it is evicted.
func (s *Store) SetQuota(q Quota) {
	s.space.mu.Lock()
	s.space.quota = q.defaults()
	e := s.space.evictor
	s.space.mu.Unlock()
	if e != nil {
		e.Crowded()
	}
}

// Usage says what the store takes, in bytes.
type Usage struct {
	Files     int   // files, complete or not
	Bytes     int64 // data held now
	Arriving  int64 // data that is being written, or not yet given back
	Quota     int64 // 0 = no limit but the file system
	Budget    int64 // what the store may have at this moment: by the quota, or less if the file system is full
	High, Low int64 // the watermarks
	Free      int64 // free in the file system
	Reserve   int64 // of that, left to others
}

// Excess returns how much must go until the store is at its low watermark: 0 unless it is above the high one.
func (u Usage) Excess() int64 {
	if u.Bytes+u.Arriving <= u.High {
		return 0
	}
	return u.Bytes + u.Arriving - u.Low
}

// Usage says what the store takes. Free is 0 if the file system does not tell.
func (s *Store) Usage() Usage {
	u, err := s.space.usage()
	if err != nil {
		s.log.Warn("cannot tell the free space", "dir", s.o.Dir, "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.Files = len(s.files)
	return u
}

// MakeRoom returns nil if n more bytes fit now, after asking the evictor if they do not. It reserves nothing: it is for
// who wants to know before a long transfer that it would end at a full disk.
//
// Errors: ErrNoSpace, with the figures; that of ctx.
func (s *Store) MakeRoom(ctx context.Context, n int64) error {
	err := s.space.take(n)
	for ask := 0; errors.Is(err, ErrNoSpace) && ask < maxAsks; ask++ {
		if failed := s.askForRoom(ctx, n, err); failed != nil {
			return failed
		}
		err = s.space.take(n)
	}
	if err == nil {
		s.space.giveBack(n)
	}
	return err
}

// askForRoom has the evictor free something after an operation failed with why for the lack of n bytes. It returns why,
// or what explains it, if that is not possible.
func (s *Store) askForRoom(ctx context.Context, n int64, why error) error {
	s.space.mu.Lock()
	e := s.space.evictor
	s.space.mu.Unlock()
	if e == nil {
		return why
	}
	if err := e.MakeRoom(ctx, n); err != nil {
		return fmt.Errorf("%w; and no room can be made: %w", why, err)
	}
	return nil
}
