package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	handles []*Handle
	serving sync.WaitGroup
}

// end is one of the two.
type end struct {
	id      placement.HostID
	dir     string
	quota   int64
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

func (p *pair) end(n int, quota int64) *end {
	p.t.Helper()
	e := &end{id: placement.HostID(fmt.Sprintf("%032x", n)), dir: filepath.Join(p.t.TempDir(), "store"), pair: p, quota: quota}
	e.start()
	return e
}

// start starts a host, for the first time or again.
func (e *end) start() {
	e.pair.t.Helper()
	var err error
	if e.store, err = store.Open(store.Options{Dir: e.dir, Quota: store.Quota{Bytes: e.quota}}); err != nil {
		e.pair.t.Fatal(err)
	}
	e.metrics = prometheus.NewRegistry()
	e.swarm, err = swarm.New(swarm.Config{Self: e.id, Store: Files(e.store), Directory: e, Dialer: e, Metrics: e.metrics})
	if err != nil {
		e.pair.t.Fatal(err)
	}
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
		p.holder, p.reader = p.end(1, 0), p.end(2, 0)
		p.holder.other, p.reader.other = p.reader, p.holder
		p.id = p.holder.put(p.data)
		p.fetch = New(Config{Store: p.reader.store, Swarm: p.reader.swarm})
		defer p.serving.Wait()
		defer p.holder.close()
		defer p.reader.close()
		defer func() {
			for _, h := range p.handles {
				h.Close()
			}
		}()
		f(t, p)
	})
}

// open opens the file at the reader until the end of the test.
func (p *pair) open(purpose Priority) *Handle {
	p.t.Helper()
	h, err := p.fetch.Open(context.Background(), p.id, purpose)
	if err != nil {
		p.t.Fatal(err)
	}
	p.handles = append(p.handles, h)
	return h
}

// read checks one chunk.
func (p *pair) read(h *Handle, i int) {
	p.t.Helper()
	p.readAt(h, i*chunk, h.Manifest().ChunkLen(i))
}

// readAt checks n bytes from off on.
func (p *pair) readAt(h *Handle, off, n int) {
	p.t.Helper()
	got := make([]byte, n)
	if k, err := h.ReadAt(context.Background(), got, int64(off)); err != nil || k != n {
		p.t.Errorf("read %d bytes at %d: %d, %v", n, off, k, err)
	} else if !bytes.Equal(got, p.data[off:off+n]) {
		p.t.Errorf("read %d bytes at %d: wrong bytes", n, off)
	}
}

// whole fetches all.
func (p *pair) whole(h *Handle) {
	p.t.Helper()
	if err := h.Wait(context.Background(), nil, h.All()); err != nil {
		p.t.Fatal(err)
	}
}

// damage flips a byte of a stored chunk behind the store's back.
func (e *end) damage(id content.Digest, i int) {
	e.pair.t.Helper()
	flip(e.pair.t, e.dir, id, i)
}

// flip flips the first byte of a chunk in the store of a directory.
func flip(t *testing.T, dir string, id content.Digest, i int) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "files", id.Hex(), "data"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], int64(i)*chunk); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b[:], int64(i)*chunk); err != nil {
		t.Fatal(err)
	}
}

func TestWaitWhole(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		h := p.open(swarm.Distribute)
		var last Progress
		if err := h.Wait(context.Background(), func(s Progress) { last = s }, h.All()); err != nil {
			t.Fatal(err)
		}
		size := int64(len(p.data))
		if !h.Stored().Complete() || last.Done != size || last.Total != size || last.Fetched != size {
			t.Errorf("complete: %v, progress %+v", h.Stored().Complete(), last)
		}
		for i := range 20 {
			p.read(h, i)
		}
		if n := p.reader.received(); n != 20 {
			t.Errorf("received %d chunks, want 20", n)
		}
		if got := h.Progress(); got != (Progress{Fetched: size}) || len(p.fetch.UnderWay()) > 0 {
			t.Errorf("progress %+v, under way %v with nothing wanted", got, p.fetch.UnderWay())
		}
	})
}

func TestWaitPart(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		h := p.open(swarm.ReadAhead)
		if err := h.Wait(context.Background(), nil, Range{5, 7}, Range{8, 9}, Range{19, 99}, Range{3, 3}); err != nil {
			t.Fatal(err)
		}
		have := h.Stored().Have()
		if want := h.bits(Range{5, 7}, Range{8, 9}, Range{19, 20}); !have.Equal(want) {
			t.Errorf("held: %v", Ranges(have))
		}
		if r := Ranges(have); fmt.Sprint(r) != "[{5 7} {8 9} {19 20}]" {
			t.Errorf("as ranges: %v", r)
		}
	})
}

func TestReadAt(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		h := p.open(swarm.Demand)
		for _, c := range []struct{ off, n int }{
			{5, 10}, {chunk - 3, 6}, {3 * chunk, chunk}, {3*chunk + 1, 4 * chunk}, {0, len(p.data)}, {len(p.data) - 9, 9}, {7, 0},
		} {
			p.readAt(h, c.off, c.n)
		}
		if n := p.reader.received(); n != 20 {
			t.Errorf("received %d chunks, want each of 20 once", n)
		}
		for _, c := range []struct {
			off  int64
			n    int
			want int
		}{{int64(len(p.data)) - 5, 10, 5}, {int64(len(p.data)), 1, 0}, {1 << 40, 10, 0}} {
			if n, err := h.ReadAt(context.Background(), make([]byte, c.n), c.off); n != c.want || err != io.EOF {
				t.Errorf("%d bytes at %d: %d, %v", c.n, c.off, n, err)
			}
		}
		if _, err := h.ReadAt(context.Background(), make([]byte, 1), -1); err == nil {
			t.Error("reads before the beginning")
		}
	})
}

// TestReadFetchesOnce: many readers of a missing chunk, by handles of their own, one flight.
func TestReadFetchesOnce(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		var readers sync.WaitGroup
		for range 10 {
			h := p.open(swarm.Demand)
			readers.Go(func() { p.read(h, 19) })
		}
		readers.Wait()
		p.read(p.open(swarm.Repair), 19)
		if n := p.reader.received(); n != 1 {
			t.Errorf("received %d chunks, want 1", n)
		}
	})
}

func TestReadHeals(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		h := p.open(swarm.Distribute)
		p.whole(h)
		p.reader.damage(p.id, 7)
		p.read(h, 7)
		if n := p.reader.received(); n != 21 {
			t.Errorf("received %d chunks, want the 20 and one again", n)
		}
		if _, err := h.Stored().ReadChunk(7, nil); err != nil {
			t.Errorf("the store still has it damaged: %v", err)
		}
		if got := h.Progress().Fetched; got != int64(len(p.data)+chunk) {
			t.Errorf("%d bytes fetched, want all and one chunk again", got)
		}
	})
}

// TestDamageIsNotPassedOn: what the holder's disk damaged reaches nobody, and the reader is told.
func TestDamageIsNotPassedOn(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.holder.damage(p.id, 7)
		h := p.open(swarm.Demand)
		if _, err := h.ReadAt(context.Background(), make([]byte, chunk), 7*chunk); !errors.Is(err, swarm.ErrNoHolder) {
			t.Errorf("error %v", err)
		}
		p.read(h, 8)
	})
}

// TestKnownChunksAreNotFetched: a new version costs what has changed.
func TestKnownChunksAreNotFetched(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.whole(p.open(swarm.Distribute))
		p.data[3*chunk]++
		p.id = p.holder.put(p.data)
		h := p.open(swarm.Distribute)
		p.whole(h)
		for i := range 20 {
			p.read(h, i)
		}
		if n := p.reader.received(); n != 21 {
			t.Errorf("received %d chunks, want the 20 and the one that changed", n)
		}
	})
}

func TestErrorsPass(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		if _, err := p.fetch.Open(context.Background(), content.Sum([]byte("unknown")), swarm.Demand); !errors.Is(err, swarm.ErrNoHolder) {
			t.Errorf("unknown file: %v", err)
		}
		h := p.open(swarm.Demand)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := h.ReadAt(ctx, make([]byte, chunk), chunk); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := p.reader.store.Remove(p.id); err != nil {
			t.Fatal(err)
		}
		if _, err := h.ReadAt(context.Background(), make([]byte, chunk), chunk); !errors.Is(err, store.ErrRemoved) {
			t.Errorf("removed: %v", err)
		}
	})
}
