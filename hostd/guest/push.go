package guest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/placement"
)

// partsStay is how long what a guest has sent of a file is kept for it to go on, once its link has ended.
const partsStay = 10 * time.Minute

// parts is what a guest has sent of the one file that it publishes, kept over the end of its link. What other guests
// have sent does not count: whoever knows a digest alone must not come to the bytes.
type parts struct {
	mu    sync.Mutex
	file  *store.File
	sent  content.Bits // chunks that this guest has sent
	done  func()       // lets go of the file
	sweep *time.Timer
}

// take returns the file of a manifest, with what was sent of it before.
func (p *parts) take(ctx context.Context, pub Publisher, m *content.Manifest) (*store.File, content.Bits, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sweep != nil {
		p.sweep.Stop()
	}
	if p.file != nil && p.file.ID() == m.ID() {
		return p.file, p.sent, nil
	}
	p.clear()
	file, done, err := pub.Receive(ctx, m)
	if err != nil {
		return nil, content.Bits{}, err
	}
	p.file, p.sent, p.done = file, content.NewBits(m.Chunks()), done
	return p.file, p.sent, nil
}

// rest keeps what there is for a while, for the guest to go on.
func (p *parts) rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil {
		p.sweep = time.AfterFunc(partsStay, p.drop)
	}
}

// drop forgets what was sent.
func (p *parts) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *parts) clear() {
	if p.sweep != nil {
		p.sweep.Stop()
	}
	if p.done != nil {
		p.done()
	}
	p.file, p.sent, p.done, p.sweep = nil, content.Bits{}, nil, nil
}

// push takes in a file and publishes it. Once it has begun, whatever fails ends the stream: there may be bulk under
// way.
func (x *stream) push(ctx context.Context, d placement.Domain, id uint32, req guestlink.PushRequest) error {
	x.raw.SetPatience(guestlink.IdleTimeout)
	name, err := x.server.pushName(d, req)
	if err != nil {
		return err
	}
	select {
	case x.guest.pushes <- struct{}{}:
		defer func() { <-x.guest.pushes }()
	default:
		return last(guestlink.Fail(guestlink.CodeBusy, "this domain publishes another file; one at a time"))
	}
	hold := int64(2*req.Manifest) + content.MaxChunkSize // as it came, which is kept, with its runs and sets of chunks; one chunk
	if !x.guest.held.TryAcquire(hold) {
		return last(guestlink.Fail(guestlink.CodeBusy, "too much is held for this domain at a time"))
	}
	defer x.guest.held.Release(hold)
	m, err := x.receiveManifest(id, req.Manifest)
	if err != nil {
		return err
	}
	if err := x.server.withinQuota(d, name, m.Size()); err != nil {
		return last(err)
	}
	file, sent, err := x.guest.parts.take(ctx, x.server.cfg.Publisher, m)
	if err != nil {
		return last(x.cannotTake(ctx, name, err))
	}
	defer x.guest.parts.rest()
	if err := x.receiveChunks(ctx, id, name, file, sent); err != nil {
		return err
	}
	return x.publish(ctx, id, name, file)
}

// last makes a failure end the stream.
func last(err error) error {
	if f, ok := errors.AsType[*guestlink.Failure](err); ok {
		return &finalFailure{f}
	}
	return err
}

// finalFailure is a Failure after which the conversation cannot go on.
type finalFailure struct{ *guestlink.Failure }

// Unwrap makes it the failure.
func (f *finalFailure) Unwrap() error { return f.Failure }

// pushName is what a file will be called, if its guest may publish it.
func (s *Server) pushName(d placement.Domain, req guestlink.PushRequest) (string, error) {
	prefix := d.PushPrefix()
	if prefix == "" {
		return "", last(guestlink.Fail(guestlink.CodeDenied, "this domain may not publish files; the operator of its host can allow it: virtswarm guest push %.200s", d.Name))
	}
	name := req.Name
	if !strings.HasPrefix(name, prefix) {
		name = prefix + name
	}
	if err := placement.ValidateName(name); err != nil {
		return "", last(guestlink.Fail(guestlink.CodeDenied, "%v", err))
	}
	if req.Manifest < 1 || req.Manifest > guestlink.MaxManifest {
		return "", guestlink.Fail(guestlink.CodeProtocol, "a manifest of %d bytes, must be 1 to %d", req.Manifest, guestlink.MaxManifest)
	}
	return name, nil
}

// withinQuota checks that a domain's files stay within its quota when this one is among them.
func (s *Server) withinQuota(d placement.Domain, name string, size int64) error {
	if d.Push == nil {
		return guestlink.Fail(guestlink.CodeDenied, "this domain may not publish files any more")
	}
	var used int64
	s.cfg.Catalogue.View(func(st *placement.State) { used = st.BytesUnder(d.PushPrefix(), name) })
	if used+size > d.Push.Quota {
		return guestlink.Fail(guestlink.CodeQuota, "%d bytes are too many: the quota of this domain is %d, other files of it take %d", size, d.Push.Quota, used)
	}
	return nil
}

// receiveData fills p with bulk of a request.
func (x *stream) receiveData(id uint32, p []byte) error {
	for len(p) > 0 {
		f, err := x.conn.ReceiveInto(p)
		if err != nil {
			return err
		}
		if f.Kind != guestlink.Data || f.ID != id || len(f.Payload) == 0 || len(f.Payload) > len(p) {
			return violation(f, "of %d bytes comes where bulk of request %d is due", len(f.Payload), id)
		}
		p = p[len(f.Payload):]
	}
	return nil
}

func (x *stream) receiveManifest(id uint32, size int) (*content.Manifest, error) {
	p := make([]byte, size)
	if err := x.receiveData(id, p); err != nil {
		return nil, err
	}
	m, err := content.DecodeManifest(p)
	if err != nil {
		return nil, guestlink.Fail(guestlink.CodeProtocol, "%v", err)
	}
	return m, nil
}

// receiveChunks says which chunks it wants, and writes them as they come, each verified.
func (x *stream) receiveChunks(ctx context.Context, id uint32, name string, file *store.File, sent content.Bits) error {
	m := file.Manifest()
	want := content.NewBits(m.Chunks())
	m.Data(func(i int, _ content.Digest) bool {
		if !sent.Has(i) || !file.Has(i) {
			want.Set(i)
		}
		return true
	})
	set := want.Encode()
	if err := x.conn.SendMessage(guestlink.Wanted, id, guestlink.WantedSet{Chunks: m.Chunks(), Bytes: len(set)}); err != nil {
		return err
	}
	if err := x.conn.SendData(id, set); err != nil {
		return err
	}
	buf := make([]byte, min(int64(m.ChunkSize()), m.Size()))
	for i, ok := want.NextSet(0); ok; i, ok = want.NextSet(i + 1) {
		p := buf[:m.ChunkLen(i)]
		if err := x.receiveData(id, p); err != nil {
			return err
		}
		if err := x.writeChunk(ctx, file, i, p); err != nil {
			return last(x.cannotTake(ctx, name, err))
		}
		sent.Set(i)
		x.server.metrics.received.Add(float64(len(p)))
	}
	f, err := x.conn.Receive()
	if err == nil && f.Kind != guestlink.Commit {
		err = violation(f, "comes where Commit is due")
	}
	return err
}

// writeChunk verifies a chunk and writes it, when it is its guest's turn. It verifies also what the store has already.
func (x *stream) writeChunk(ctx context.Context, file *store.File, i int, p []byte) error {
	select {
	case x.guest.turns <- struct{}{}:
		defer func() { <-x.guest.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if file.Has(i) {
		return file.Manifest().Verify(i, p)
	}
	return file.WriteChunk(i, p)
}

// publish makes what was received a file of the cluster.
func (x *stream) publish(ctx context.Context, id uint32, name string, file *store.File) error {
	d, err := x.server.domain(x.session)
	if err != nil {
		return err
	}
	if err := x.server.withinQuota(d, name, file.Manifest().Size()); err != nil { // it may have taken an hour
		return last(err)
	}
	if err := file.Sync(ctx); err != nil {
		return last(x.cannotTake(ctx, name, err))
	}
	now := guestlink.PushProgress{Name: name, ID: file.ID()}
	err = x.server.cfg.Publisher.Publish(ctx, name, d.PushGuests(), file, func(copies, wanted int) {
		if copies != now.Copies || wanted != now.Wanted {
			now.Copies, now.Wanted = copies, wanted
			_ = x.conn.SendMessage(guestlink.Progress, id, now) // if it fails, the stream is gone, and ctx ends
		}
	})
	if err != nil {
		return last(x.cannotTake(ctx, name, err))
	}
	x.guest.parts.drop()
	x.server.log.Info("a guest has published a file", "domain", d.Name, "uuid", d.UUID, "file", name, "id", file.ID(), "size", file.Manifest().Size())
	return x.conn.SendMessage(guestlink.Published, id, now)
}

// cannotTake tells the guest what it needs to know of an error, and the log the rest.
func (x *stream) cannotTake(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	x.server.log.Warn("cannot take in what a guest publishes", "file", name, "domain", x.guest.uuid, "error", err)
	switch {
	case errors.Is(err, content.ErrMismatch):
		return guestlink.Fail(guestlink.CodeCorrupt, "%.200q: a chunk does not match its digest: the file changed while it was read, or came damaged", name)
	case errors.Is(err, store.ErrNoSpace):
		return guestlink.Fail(guestlink.CodeSpace, "%.200q: host %s has no room for it", name, x.server.cfg.Host)
	}
	return guestlink.Fail(guestlink.CodeRetry, "%.200q: host %s cannot take it now", name, x.server.cfg.Host)
}
