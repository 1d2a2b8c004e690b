package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/placement"
)

const chunk = 64 << 10

// pair is a host that holds a file and one that reads it, joined by memory pipes in a synctest bubble.
type pair struct {
	t       *testing.T
	holder  *end
	reader  *end
	fetch   *Fetcher
	data    []byte
	id      content.Digest
	serving sync.WaitGroup
}

// end is one of the two.
type end struct {
	id      placement.HostID
	dir     string
	store   *store.Store
	swarm   *swarm.Swarm
	metrics *prometheus.Registry
	other   *end
	pair    *pair
	gone    bool
}

func (e *end) Holders(content.Digest) []placement.HostID { return []placement.HostID{e.other.id} }
func (e *end) Place(placement.HostID) swarm.Place        { return swarm.Place{} }

func (e *end) Dial(context.Context, placement.HostID) (net.Conn, error) {
	if e.other.gone {
		return nil, errors.New("connection refused")
	}
	near, far := linktest.Pipe()
	e.pair.serving.Go(func() { e.other.swarm.Serve(context.Background(), far, e.id) })
	return near, nil
}

func (p *pair) end(n int) *end {
	p.t.Helper()
	e := &end{id: placement.HostID(fmt.Sprintf("%032x", n)), dir: filepath.Join(p.t.TempDir(), "store"), metrics: prometheus.NewRegistry(), pair: p}
	var err error
	if e.store, err = store.Open(store.Options{Dir: e.dir}); err != nil {
		p.t.Fatal(err)
	}
	e.swarm, err = swarm.New(swarm.Config{Self: e.id, Store: Files(e.store), Directory: e, Dialer: e, Metrics: e.metrics})
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

func (e *end) close() {
	if err := errors.Join(e.swarm.Close(), e.store.Close()); err != nil {
		e.pair.t.Error(err)
	}
}

// received returns how many chunks came from the other host.
func (e *end) received() int {
	families, err := e.metrics.Gather()
	if err != nil {
		e.pair.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "virtswarm_swarm_received_chunks_total" {
			return int(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	e.pair.t.Fatal("no metric of chunks received")
	return 0
}

// put imports data at a host.
func (e *end) put(data []byte) content.Digest {
	e.pair.t.Helper()
	path := filepath.Join(e.pair.t.TempDir(), "source")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		e.pair.t.Fatal(err)
	}
	src, err := os.Open(path)
	if err != nil {
		e.pair.t.Fatal(err)
	}
	defer src.Close()
	f, err := e.store.Import(context.Background(), src, store.ImportOptions{ChunkSize: chunk})
	if err != nil {
		e.pair.t.Fatal(err)
	}
	return f.ID()
}

// inPair runs a test in a bubble; the holder has a file of 20 chunks, the last of which is short.
func inPair(t *testing.T, f func(t *testing.T, p *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pair{t: t, data: make([]byte, 20*chunk-7)}
		rand.NewChaCha8([32]byte{}).Read(p.data)
		p.holder, p.reader = p.end(1), p.end(2)
		p.holder.other, p.reader.other = p.reader, p.holder
		p.id = p.holder.put(p.data)
		p.fetch = New(p.reader.store, p.reader.swarm, nil)
		defer p.serving.Wait()
		defer p.holder.close()
		defer p.reader.close()
		f(t, p)
	})
}

func (p *pair) file() *store.File {
	p.t.Helper()
	f, err := p.fetch.File(context.Background(), p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// read checks one chunk.
func (p *pair) read(f *store.File, i int) {
	p.t.Helper()
	got, err := p.fetch.ReadChunk(context.Background(), f, i, nil)
	if err != nil {
		p.t.Errorf("read chunk %d: %v", i, err)
		return
	}
	if want := p.data[i*chunk : min((i+1)*chunk, len(p.data))]; !bytes.Equal(got, want) {
		p.t.Errorf("chunk %d: wrong bytes", i)
	}
}

// damage flips a byte of a stored chunk behind the store's back.
func (e *end) damage(id content.Digest, i int) {
	e.pair.t.Helper()
	f, err := os.OpenFile(filepath.Join(e.dir, "files", id.Hex(), "data"), os.O_RDWR, 0)
	if err != nil {
		e.pair.t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], int64(i)*chunk); err != nil {
		e.pair.t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b[:], int64(i)*chunk); err != nil {
		e.pair.t.Fatal(err)
	}
}

func TestEnsureWhole(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		var last swarm.Progress
		err := p.fetch.Ensure(context.Background(), p.id, content.Bits{}, swarm.Distribute, func(s swarm.Progress) { last = s })
		if err != nil {
			t.Fatal(err)
		}
		f := p.file()
		if !f.Complete() || last.Done != int64(len(p.data)) {
			t.Errorf("complete: %v, progress %+v", f.Complete(), last)
		}
		for i := range 20 {
			p.read(f, i)
		}
		if n := p.reader.received(); n != 20 {
			t.Errorf("received %d chunks, want 20", n)
		}
	})
}

func TestEnsurePart(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		f := p.file()
		want := content.NewBits(20)
		want.SetRange(5, 9)
		if err := p.fetch.Ensure(context.Background(), p.id, want, swarm.ReadAhead, nil); err != nil {
			t.Fatal(err)
		}
		if have := f.Have(); !have.Equal(want) {
			t.Errorf("%d chunks are held, want 4", have.Count())
		}
		if err := p.fetch.Ensure(context.Background(), p.id, content.NewBits(3), swarm.ReadAhead, nil); err == nil {
			t.Error("a set of another length is accepted")
		}
	})
}

// TestReadFetchesOnce: many readers of a missing chunk, one flight.
func TestReadFetchesOnce(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		f := p.file()
		var readers sync.WaitGroup
		for range 10 {
			readers.Go(func() { p.read(f, 19) })
		}
		readers.Wait()
		p.read(f, 19)
		if n := p.reader.received(); n != 1 {
			t.Errorf("received %d chunks, want 1", n)
		}
	})
}

func TestReadHeals(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		if err := p.fetch.Ensure(context.Background(), p.id, content.Bits{}, swarm.Distribute, nil); err != nil {
			t.Fatal(err)
		}
		f := p.file()
		p.reader.damage(p.id, 7)
		p.read(f, 7)
		if n := p.reader.received(); n != 21 {
			t.Errorf("received %d chunks, want the 20 and one again", n)
		}
		if _, err := f.ReadChunk(7, nil); err != nil {
			t.Errorf("the store still has it damaged: %v", err)
		}
	})
}

// TestDamageIsNotPassedOn: what the holder's disk damaged reaches nobody, and the reader is told.
func TestDamageIsNotPassedOn(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.holder.damage(p.id, 7)
		f := p.file()
		if _, err := p.fetch.ReadChunk(context.Background(), f, 7, nil); !errors.Is(err, swarm.ErrNoHolder) {
			t.Errorf("error %v", err)
		}
		p.read(f, 8)
	})
}

// TestKnownChunksAreNotFetched: a new version costs what has changed.
func TestKnownChunksAreNotFetched(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		if err := p.fetch.Ensure(context.Background(), p.id, content.Bits{}, swarm.Distribute, nil); err != nil {
			t.Fatal(err)
		}
		p.data[3*chunk]++
		p.id = p.holder.put(p.data)
		if err := p.fetch.Ensure(context.Background(), p.id, content.Bits{}, swarm.Distribute, nil); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			p.read(p.file(), i)
		}
		if n := p.reader.received(); n != 21 {
			t.Errorf("received %d chunks, want the 20 and the one that changed", n)
		}
	})
}

func TestErrorsPass(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		if _, err := p.fetch.File(context.Background(), content.Sum([]byte("unknown"))); !errors.Is(err, swarm.ErrNoHolder) {
			t.Errorf("unknown file: %v", err)
		}
		f := p.file()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := p.fetch.ReadChunk(ctx, f, 1, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := p.reader.store.Remove(p.id); err != nil {
			t.Fatal(err)
		}
		if _, err := p.fetch.ReadChunk(context.Background(), f, 1, nil); !errors.Is(err, store.ErrRemoved) {
			t.Errorf("removed: %v", err)
		}
	})
}
