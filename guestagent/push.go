package guestagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// Pushed is what Push has done.
type Pushed struct {
	Name   string         `json:"name"` // with the domain's prefix
	ID     content.Digest `json:"id"`
	Size   int64          `json:"size"`   // bytes of the file
	Sent   int64          `json:"sent"`   // of its data, that went by the link
	Copies int            `json:"copies"` // hosts that have all of it
	Links  int            `json:"links"`  // how many it took
}

// lastWord is how long the host's reason is waited for where it stopped to listen.
const lastWord = time.Second

// PushPhase says what Push is at.
type PushPhase int

// Phases of Push, in their order.
const (
	Hashing PushPhase = iota
	Sending
	Replicating // done and total are copies
)

// Push publishes a file of this guest under name, below the prefix of its domain.
//
// Errors: ErrNotRegular, ErrNoLink, a *guestlink.Failure, those of the file system. If the file changes meanwhile, the
// host notices, and nothing is published.
func (a *Agent) Push(ctx context.Context, path, name string, progress func(phase PushPhase, done, total int64)) (Pushed, error) {
	if progress == nil {
		progress = func(PushPhase, int64, int64) {}
	}
	r, err := a.push(ctx, path, name, progress)
	if err != nil {
		return r, fmt.Errorf("push %s: %w", path, err)
	}
	return r, nil
}

func (a *Agent) push(ctx context.Context, path, name string, progress func(PushPhase, int64, int64)) (r Pushed, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return r, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return r, err
	}
	if !info.Mode().IsRegular() {
		return r, ErrNotRegular
	}
	if err := honest(f, info.Size()); err != nil {
		return r, err
	}
	if err := a.allowed(ctx, info.Size()); err != nil { // before an hour of hashing
		return r, err
	}
	m, err := content.ChunkFile(ctx, f, info.Size(), content.ChunkOptions{
		ChunkSize: content.ChunkSizeFor(info.Size()), Progress: func(done int64) { progress(Hashing, done, info.Size()) },
	})
	if err != nil {
		return r, err
	}
	r.ID, r.Size = m.ID(), m.Size()
	err = a.again(ctx, func() int64 { return r.Sent }, func(c *client) error {
		r.Links++
		t, err := c.talk(ctx, guestlink.ForPush)
		if err != nil {
			return err
		}
		defer t.Close()
		return t.push(m, f, name, &r, progress)
	})
	return r, err
}

// honest is ErrOddSize unless a file has as many bytes as it says: those in /proc do not, and would be published empty.
func honest(f *os.File, size int64) error {
	var b [1]byte
	if n, err := f.ReadAt(b[:], size); n > 0 {
		return ErrOddSize
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if size == 0 {
		return nil
	}
	if n, err := f.ReadAt(b[:], size-1); n == 0 && errors.Is(err, io.EOF) {
		return ErrOddSize
	}
	return nil
}

// allowed asks whether this guest may publish a file of that size at all.
func (a *Agent) allowed(ctx context.Context, size int64) error {
	c, leave, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer leave()
	switch {
	case c.welcome.PushPrefix == "":
		return guestlink.Fail(guestlink.CodeDenied, "domain %s may not publish files; the operator of its host can allow it: virtswarm guest push %s --quota SIZE", c.welcome.Domain, c.welcome.Domain)
	case size > c.welcome.PushQuota:
		return guestlink.Fail(guestlink.CodeQuota, "%d bytes are more than the quota of domain %s, %d", size, c.welcome.Domain, c.welcome.PushQuota)
	}
	return nil
}

// push sends a file over one stream, and waits until it is published.
func (t *talk) push(m *content.Manifest, f *os.File, name string, r *Pushed, progress func(PushPhase, int64, int64)) error {
	id, err := t.ask(guestlink.Push, guestlink.PushRequest{Name: name, Manifest: len(m.Encode())})
	if err == nil {
		err = t.conn.SendData(id, m.Encode())
	}
	if err != nil {
		return t.reason(id, err)
	}
	want, err := t.wanted(id, m)
	if err != nil {
		return err
	}
	if err := t.sendChunks(id, m, f, want, r, progress); err != nil {
		return err
	}
	for {
		answer, err := t.expect(id, guestlink.Progress, guestlink.Published)
		if err != nil {
			return err
		}
		var now guestlink.PushProgress
		if err := answer.Decode(&now); err != nil {
			return err
		}
		r.Name, r.Copies = now.Name, now.Copies
		progress(Replicating, int64(now.Copies), int64(now.Wanted))
		if answer.Kind == guestlink.Published {
			return nil
		}
	}
}

// wanted receives which chunks the host wants.
func (t *talk) wanted(id uint32, m *content.Manifest) (want content.Bits, err error) {
	f, err := t.expect(id, guestlink.Wanted)
	if err != nil {
		return want, err
	}
	var set guestlink.WantedSet
	if err := f.Decode(&set); err != nil {
		return want, err
	}
	if set.Chunks != m.Chunks() || set.Bytes < 0 || set.Bytes > content.MaxBitsSize(m.Chunks()) {
		return want, fmt.Errorf("%w: a set of %d bytes for %d chunks of %d", guestlink.ErrProtocol, set.Bytes, set.Chunks, m.Chunks())
	}
	p := make([]byte, set.Bytes)
	if err := t.data(id, p); err != nil {
		return want, err
	}
	if want, err = content.DecodeBits(p, m.Chunks()); err != nil {
		return want, fmt.Errorf("%w: %w", guestlink.ErrProtocol, err)
	}
	return want, nil
}

// sendChunks sends what the host wants, and Commit.
func (t *talk) sendChunks(id uint32, m *content.Manifest, f *os.File, want content.Bits, r *Pushed, progress func(PushPhase, int64, int64)) error {
	var total int64
	for i, ok := want.NextSet(0); ok; i, ok = want.NextSet(i + 1) {
		total += int64(m.ChunkLen(i))
	}
	buf := make([]byte, min(int64(m.ChunkSize()), m.Size()))
	var done int64
	for i, ok := want.NextSet(0); ok; i, ok = want.NextSet(i + 1) {
		p := buf[:m.ChunkLen(i)]
		if _, err := f.ReadAt(p, m.Offset(i)); err != nil {
			return localError{err}
		}
		if err := t.conn.SendData(id, p); err != nil {
			return t.reason(id, err)
		}
		done += int64(len(p))
		r.Sent += int64(len(p))
		progress(Sending, done, total)
	}
	if err := t.conn.Send(guestlink.Commit, id, nil); err != nil {
		return t.reason(id, err)
	}
	return nil
}

// reason is why the host stopped to listen, if it said so: that, and not that the link broke, is what went wrong.
func (t *talk) reason(id uint32, err error) error {
	t.stream.SetPatience(lastWord)
	_, said := t.expect(id, guestlink.Failed) // which is an error of it
	if f, ok := errors.AsType[*guestlink.Failure](said); ok {
		return f
	}
	return err
}
