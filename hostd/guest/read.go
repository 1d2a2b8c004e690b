package guest

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// watchPace is the least time between two looks at what a guest may see.
	watchPace = 250 * time.Millisecond
	// entriesFill is the payload at which an Entries frame is sent: the longest entry still fits.
	entriesFill = guestlink.MaxControl - 8<<10
)

// opened is the file that is read on a stream.
type opened struct {
	name    string
	handle  *fetch.Handle  // nil if it could not be opened
	ahead   bool           // the rest of the file is wanted, too
	wanting sync.WaitGroup // that it is, is being said
	buffers [2][]byte
	held    int64 // bytes of the guest's that it takes
}

// listing returns the newest versions of what a domain may read below a prefix.
func (s *Server) listing(d placement.Domain, prefix string) (files []guestlink.Entry) {
	s.cfg.Catalogue.View(func(st *placement.State) {
		for _, f := range st.Names(prefix) {
			if v := f.Newest(); d.MayRead(v.Guests) {
				files = append(files, guestlink.Entry{Name: f.Name, ID: v.ID, Size: v.Size, Published: v.At})
			}
		}
	})
	return files
}

// list sends what the guest may read below a prefix, in as many frames as it takes.
func (x *stream) list(d placement.Domain, id uint32, req guestlink.ListRequest) error {
	files := x.server.listing(d, req.Prefix)
	page := []byte(`{"files":[`)
	for n := len(page); len(files) > 0; page = page[:n] {
		count := 0
		for ; count < len(files) && len(page) < entriesFill; count++ {
			entry, err := json.Marshal(files[count])
			if err != nil {
				return err
			}
			if count > 0 {
				page = append(page, ',')
			}
			page = append(page, entry...)
		}
		files = files[count:]
		if err := x.conn.Send(guestlink.Entries, id, append(page, "]}"...)); err != nil {
			return err
		}
	}
	return x.conn.Send(guestlink.End, id, nil)
}

// watch tells the guest when a listing has changed, until it closes the stream.
func (x *stream) watch(ctx context.Context, f guestlink.Frame, req guestlink.ListRequest) error {
	if !x.watches.CompareAndSwap(false, true) {
		return violation(f, "is the second on this link")
	}
	defer x.watches.Store(false)
	if err := x.follow(ctx, f.ID, req.Prefix); err != nil {
		return err
	}
	return io.EOF
}

// follow sends Changed whenever the listing has become another, and once at the beginning.
func (x *stream) follow(ctx context.Context, id uint32, prefix string) error {
	seed := maphash.MakeSeed()
	var last uint64
	for first := true; ; first = false {
		catalogue, domains := x.server.cfg.Catalogue.Changed(), x.server.cfg.Domains.Changed()
		d, err := x.server.domain(x.session)
		if err != nil {
			return err
		}
		var sum maphash.Hash
		sum.SetSeed(seed)
		for _, e := range x.server.listing(d, prefix) {
			sum.WriteString(e.Name)
			sum.WriteByte(0)
			sum.Write(e.ID[:])
		}
		if now := sum.Sum64(); first || now != last {
			last = now
			if err := x.conn.Send(guestlink.Changed, id, nil); err != nil {
				return err
			}
		}
		select {
		case <-catalogue:
		case <-domains:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(watchPace):
		case <-ctx.Done():
			return nil
		}
	}
}

// openFile makes a file the one that Read reads, and sends its manifest.
func (x *stream) openFile(ctx context.Context, d placement.Domain, id uint32, req guestlink.OpenRequest) error {
	x.closeFile()
	v, ok := x.server.mayRead(d, req)
	if !ok {
		return guestlink.Fail(guestlink.CodeNotFound, "%.200q: there is no such file for this domain", req.Name)
	}
	o := &opened{name: req.Name}
	x.open = o
	handle, err := x.server.cfg.Files.Open(ctx, v.ID, swarm.Demand)
	if err != nil {
		return x.cannot(ctx, "learn what it consists of", o, err)
	}
	o.handle = handle
	m := handle.Manifest()
	if len(m.Encode()) > guestlink.MaxManifest {
		return guestlink.Fail(guestlink.CodeFailed, "%.200q has chunks of %d bytes, too small for a file of its size to go over a guest link", req.Name, m.ChunkSize())
	}
	need := 2 * min(int64(m.ChunkSize()), m.Size())
	if !x.guest.held.TryAcquire(need) {
		return guestlink.Fail(guestlink.CodeBusy, "this domain reads too many files at a time")
	}
	o.held = need
	answer := guestlink.OpenedFile{ID: v.ID, Size: m.Size(), Manifest: len(m.Encode())}
	if err := x.conn.SendMessage(guestlink.Opened, id, answer); err != nil {
		return err
	}
	if err := x.conn.SendData(id, m.Encode()); err != nil {
		return err
	}
	return x.conn.Send(guestlink.End, id, nil)
}

// fetch fetches ahead of the reader what this host lacks of a file, from the chunk on that it reads first: a guest that
// arrives in the middle of a pull has what is before that.
func (x *stream) fetch(ctx context.Context, o *opened, first int) {
	if o.ahead || o.handle.Stored().Complete() {
		return
	}
	o.ahead = true
	rest := fetch.Want{Ranges: []fetch.Range{{First: first, End: o.handle.All().End}}, Priority: swarm.Distribute}
	o.wanting.Go(func() { // to make room may take its time
		err := o.handle.Want(ctx, rest)
		if err != nil && ctx.Err() == nil && !errors.Is(err, fetch.ErrClosed) { // whoever reads will hear of it
			x.server.log.Warn("cannot fetch all of a file that a guest reads", "file", o.name, "domain", x.guest.uuid, "error", err)
		}
	})
}

// closeFile lets go of the open file.
func (x *stream) closeFile() {
	o := x.open
	if o == nil {
		return
	}
	x.open = nil
	if o.handle != nil {
		o.handle.Close()
	}
	o.wanting.Wait()
	x.guest.held.Release(o.held)
}

// read sends chunks of the open file.
func (x *stream) read(ctx context.Context, d placement.Domain, f guestlink.Frame, req guestlink.ReadRequest) error {
	o := x.open
	if o == nil || o.handle == nil {
		return guestlink.Fail(guestlink.CodeNotFound, "no file is open on this stream")
	}
	m := o.handle.Manifest()
	switch {
	case req.First < 0 || req.Count < 1 || req.First >= m.Chunks() || req.Count > m.Chunks()-req.First:
		return violation(f, "asks for %d chunks from %d on of a file that has %d", req.Count, req.First, m.Chunks())
	case req.Count > 1 && int64(req.Count)*int64(m.ChunkSize()) > guestlink.MaxRead:
		return violation(f, "asks for %d chunks of %d bytes, more than %d together", req.Count, m.ChunkSize(), guestlink.MaxRead)
	}
	if _, ok := x.server.mayRead(d, guestlink.OpenRequest{Name: o.name, ID: m.ID()}); !ok {
		return guestlink.Fail(guestlink.CodeNotFound, "%.200q: there is no such file for this domain any more", o.name)
	}
	x.fetch(ctx, o, req.First)
	if err := x.sendChunks(ctx, o, f.ID, req); err != nil {
		return err
	}
	return x.conn.Send(guestlink.End, f.ID, nil)
}

// chunk is one on its way from the store to the link.
type chunk struct {
	buf, p []byte
	err    error
}

// sendChunks reads one chunk while the one before is sent.
func (x *stream) sendChunks(ctx context.Context, o *opened, id uint32, req guestlink.ReadRequest) error {
	ctx, stop := context.WithCancel(ctx)
	free, full := make(chan []byte, len(o.buffers)), make(chan chunk, len(o.buffers))
	for _, b := range o.buffers {
		free <- b
	}
	go func() {
		defer close(full)
		for i := req.First; i < req.First+req.Count; i++ {
			if o.handle.Manifest().IsHole(i) {
				continue
			}
			c := x.readChunk(ctx, o, i, <-free)
			full <- c
			if c.err != nil {
				return
			}
		}
	}()
	var err error
	kept := 0
	for c := range full {
		if err == nil {
			err = c.err
		}
		if err == nil {
			err = x.conn.SendData(id, c.p)
			x.server.metrics.sent.Add(float64(len(c.p)))
		}
		if err != nil {
			stop()
		}
		if kept < len(o.buffers) { // the buffers grow with the first chunks, and stay
			o.buffers[kept] = c.buf
			kept = (kept + 1) % len(o.buffers)
		}
		free <- c.buf
	}
	stop()
	return err
}

// readChunk reads a chunk of the open file when it is its guest's turn.
func (x *stream) readChunk(ctx context.Context, o *opened, i int, buf []byte) chunk {
	select {
	case x.guest.turns <- struct{}{}:
		defer func() { <-x.guest.turns }()
	case <-ctx.Done():
		return chunk{buf: buf, err: ctx.Err()}
	}
	m := o.handle.Manifest()
	if n := m.ChunkLen(i); len(buf) < n {
		buf = make([]byte, n)
	}
	p := buf[:m.ChunkLen(i)]
	if _, err := o.handle.ReadAt(ctx, p, m.Offset(i)); err != nil {
		return chunk{buf: buf, err: x.cannot(ctx, "read it", o, err)}
	}
	return chunk{buf: buf, p: p}
}

// cannot tells the guest what it needs to know of an error, and the log the rest.
func (x *stream) cannot(ctx context.Context, do string, o *opened, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	x.server.log.Warn("cannot serve a file to a guest", "do", do, "file", o.name, "domain", x.guest.uuid, "error", err)
	code := guestlink.CodeRetry
	if errors.Is(err, store.ErrNoSpace) {
		code = guestlink.CodeSpace
	}
	return guestlink.Fail(code, "%.200q: host %s cannot %s now", o.name, x.server.cfg.Host, do)
}
