package guestagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// system is this guest's file system.
var system disk.OS

// Pulled is what Pull has done.
type Pulled struct {
	Name    string         `json:"name"`
	ID      content.Digest `json:"id"`
	Size    int64          `json:"size"`    // bytes of the file
	Data    int64          `json:"data"`    // of them, without the holes
	Resumed int64          `json:"resumed"` // of those, that an earlier attempt had left
	Fetched int64          `json:"fetched"` // of those, that came by the link now
	Links   int            `json:"links"`   // how many it took
}

// PullOptions says how a file is pulled.
type PullOptions struct {
	ID       content.Digest          // of the version; zero = the newest
	Replace  bool                    // what is at the destination
	Perm     *fs.FileMode            // of the file, whatever the umask; nil means 0600 less the umask
	Progress func(done, total int64) // bytes of data; may be nil
}

// Pull makes a file appear at dest. What an interrupted attempt left beside it is verified and used.
//
// Errors: ErrExists, ErrBusy, ErrNoLink, ErrCorrupt, a *guestlink.Failure, those of the file system.
func (a *Agent) Pull(ctx context.Context, name, dest string, o PullOptions) (Pulled, error) {
	p := &pull{agent: a, dest: dest, options: o, result: Pulled{Name: name}}
	defer p.close()
	if err := p.checkDest(); err != nil {
		return p.result, err
	}
	err := a.again(ctx, func() int64 { return p.result.Fetched }, func(c *client) error { return p.attempt(ctx, c) })
	if err != nil {
		return p.result, fmt.Errorf("pull %s: %w", name, err)
	}
	if err := p.finish(); err != nil {
		return p.result, fmt.Errorf("pull %s: %w", name, err)
	}
	return p.result, nil
}

// pull is one call of Pull.
type pull struct {
	agent   *Agent
	dest    string
	options PullOptions
	result  Pulled

	manifest *content.Manifest
	have     content.Bits // verified data chunks, and all holes
	file     *os.File
	part     string // its path
}

func (p *pull) checkDest() error {
	if info, err := os.Stat(p.dest); err == nil && info.IsDir() {
		return fmt.Errorf("pull to %s: it is a directory: %w", p.dest, ErrExists)
	}
	if _, err := os.Lstat(p.dest); err == nil && !p.options.Replace {
		return fmt.Errorf("pull to %s: %w", p.dest, ErrExists)
	}
	if info, err := os.Stat(disk.Dir(p.dest)); err != nil {
		return fmt.Errorf("pull to %s: %w", p.dest, err)
	} else if !info.IsDir() {
		return fmt.Errorf("pull to %s: %w", p.dest, syscall.ENOTDIR)
	}
	return nil
}

// attempt fetches what is missing over one link.
func (p *pull) attempt(ctx context.Context, c *client) error {
	p.result.Links++
	version := p.options.ID
	if p.manifest != nil {
		version = p.manifest.ID() // whatever was published meanwhile
	}
	t, err := c.talk(ctx, guestlink.ForPull)
	if err != nil {
		return err
	}
	defer t.Close()
	m, err := t.open(p.result.Name, version)
	if err != nil {
		return err
	}
	if p.manifest == nil {
		if err := p.begin(ctx, m); err != nil {
			return localError{err}
		}
	}
	p.progress()
	return t.fetch(p.manifest, p.have, func(i int, chunk []byte) error {
		if _, err := p.file.WriteAt(chunk, m.Offset(i)); err != nil {
			return localError{err}
		}
		return nil
	}, func(i int) {
		p.have.Set(i)
		p.result.Fetched += int64(m.ChunkLen(i))
		p.progress()
	})
}

func (p *pull) progress() {
	if p.options.Progress != nil {
		p.options.Progress(p.result.Resumed+p.result.Fetched, p.result.Data)
	}
}

// begin opens the file beside the destination in which the parts are put together, and looks at what is in it.
func (p *pull) begin(ctx context.Context, m *content.Manifest) error {
	// The name holds the version: parts of one are never taken for those of another.
	p.part = disk.Join(disk.Dir(p.dest), fmt.Sprintf(".%.200s.%s.part", disk.Base(p.dest), m.ID().Hex()[:16]))
	// The mode of the source is not known: nobody but the owner gets to read it unless he says so.
	f, err := os.OpenFile(p.part, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	p.file = f
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		p.part = "" // it is the other's
		return ErrBusy
	}
	if err != nil {
		return err
	}
	if err := f.Truncate(m.Size()); err != nil {
		return err
	}
	p.result.ID, p.result.Size, p.result.Data = m.ID(), m.Size(), m.DataBytes()
	p.have = m.Holes()
	if err := p.recognise(ctx, m); err != nil {
		return err
	}
	p.manifest = m
	return nil
}

// recognise verifies what is in the file: only that is known to be right, whatever interrupted the attempt before.
func (p *pull) recognise(ctx context.Context, m *content.Manifest) error {
	buf := make([]byte, min(int64(m.ChunkSize()), m.Size()))
	for extent, err := range content.Extents(p.file, m.Size(), int64(m.ChunkSize())) {
		if err != nil {
			return err
		}
		for off := extent.Off; off < extent.Off+extent.N; off += int64(m.ChunkSize()) {
			if err := ctx.Err(); err != nil {
				return err
			}
			i := int(off / int64(m.ChunkSize()))
			chunk := buf[:m.ChunkLen(i)]
			if _, err := p.file.ReadAt(chunk, m.Offset(i)); err != nil {
				return err
			}
			switch {
			case !m.IsHole(i) && m.Verify(i, chunk) == nil:
				p.have.Set(i)
				p.result.Resumed += int64(len(chunk))
			case m.IsHole(i) && !content.IsZero(chunk):
				if _, err := p.file.WriteAt(make([]byte, len(chunk)), m.Offset(i)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// finish makes the file durable and gives it its name.
func (p *pull) finish() error {
	if p.options.Perm != nil {
		if err := p.file.Chmod(*p.options.Perm); err != nil {
			return err
		}
	}
	if err := p.file.Sync(); err != nil {
		return err
	}
	rename := system.RenameNew // so that what came meanwhile is not lost
	if p.options.Replace {
		rename = system.Rename
	}
	if err := rename(p.part, p.dest); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", p.dest, ErrExists)
	} else if err != nil {
		return err
	}
	p.part = ""
	return system.SyncDir(disk.Dir(p.dest))
}

func (p *pull) close() {
	if p.file == nil {
		return
	}
	if p.part != "" && p.result.Resumed+p.result.Fetched == 0 {
		os.Remove(p.part) // nothing is in it
	}
	p.file.Close()
}

// PullTo writes a file's bytes to w, in order, each verified before it is written.
func (a *Agent) PullTo(ctx context.Context, name string, w io.Writer, o PullOptions) (Pulled, error) {
	r := Pulled{Name: name}
	var m *content.Manifest
	next := 0 // chunk
	zeros := make([]byte, 64<<10)
	// fill writes the holes up to a chunk.
	fill := func(to int) error {
		for ; next < to; next++ {
			for n := m.ChunkLen(next); n > 0; {
				k, err := w.Write(zeros[:min(n, len(zeros))])
				if n -= k; err != nil {
					return localError{err}
				}
			}
		}
		return nil
	}
	err := a.again(ctx, func() int64 { return r.Fetched }, func(c *client) error {
		r.Links++
		version := o.ID
		if m != nil {
			version = m.ID()
		}
		t, err := c.talk(ctx, guestlink.ForPull)
		if err != nil {
			return err
		}
		defer t.Close()
		opened, err := t.open(name, version)
		if err != nil {
			return err
		}
		if m == nil {
			m = opened
			r.ID, r.Size, r.Data = m.ID(), m.Size(), m.DataBytes()
		}
		have := m.Holes()
		have.SetRange(0, next)
		err = t.fetchInOrder(m, have, func(i int, chunk []byte) error {
			if err := fill(i); err != nil {
				return err
			}
			if _, err := w.Write(chunk); err != nil {
				return localError{err}
			}
			next = i + 1
			r.Fetched += int64(len(chunk))
			if o.Progress != nil {
				o.Progress(r.Fetched, r.Data)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return fill(m.Chunks())
	})
	if err != nil {
		return r, fmt.Errorf("pull %s: %w", name, err)
	}
	return r, nil
}
