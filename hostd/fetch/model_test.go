package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
)

// crowd is many handles on a few contents in a store that is too small for all of them, whose disk damages bytes and
// whose evictor takes whatever nobody uses.
type crowd struct {
	*pair
	ids  []content.Digest
	data map[content.Digest][]byte
	dir  string

	evicting sync.Mutex

	mu   sync.Mutex
	pins map[content.Digest]int
}

const crowdChunks = 12

func newCrowd(p *pair, seed uint64) *crowd {
	c := &crowd{pair: p, dir: p.t.TempDir(), data: map[content.Digest][]byte{}, pins: map[content.Digest]int{}}
	for n := range 4 {
		data := make([]byte, crowdChunks*chunk-n*1000)
		rand.NewChaCha8([32]byte{byte(n), byte(seed)}).Read(data)
		clear(data[(3+n)*chunk : (5+n)*chunk])
		id := p.holder.put(data)
		c.ids, c.data[id] = append(c.ids, id), data
	}
	p.reader.close()
	p.reader.quota = 2 * crowdChunks * chunk
	p.reader.start()
	p.reader.store.SetEvictor(c)
	p.fetch = New(Config{Store: p.reader.store, Swarm: p.reader.swarm}).Pinning(c.pin)
	return c
}

func (c *crowd) pin(id content.Digest) func() {
	c.count(id, 1)
	return func() { c.count(id, -1) }
}

func (c *crowd) count(id content.Digest, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pins[id] += n
}

func (c *crowd) Crowded() {}

// MakeRoom drops one content that nobody uses.
func (c *crowd) MakeRoom(ctx context.Context, need int64) error {
	c.evicting.Lock()
	defer c.evicting.Unlock()
	if c.reader.store.Usage().Left() >= need {
		return nil // another has just made it
	}
	for _, f := range c.reader.store.List() {
		if f.InUse() || f.HeldBytes() == 0 {
			continue
		}
		if err := f.Drop(ctx, f.Have()); err == nil || !errors.Is(err, store.ErrInUse) {
			return err
		}
	}
	return errors.New("all is in use")
}

// allowed says whether an operation may fail so: for want of room, with its context, or on a disk that damages too
// much.
func allowed(err error) bool {
	return err == nil || errors.Is(err, store.ErrNoSpace) || errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrMissing) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func someRanges(rnd *rand.Rand) (all []Range) {
	for range 1 + rnd.IntN(3) {
		first := rnd.IntN(crowdChunks)
		all = append(all, Range{first, first + 1 + rnd.IntN(crowdChunks-first)})
	}
	return all
}

func somePriority(rnd *rand.Rand) Priority {
	return swarm.Repair + Priority(rnd.IntN(int(swarm.Demand-swarm.Repair)+1))
}

// live opens a content, does some things with it, and closes it.
func (c *crowd) live(rnd *rand.Rand, who int) {
	id := c.ids[rnd.IntN(len(c.ids))]
	h, err := c.fetch.Open(context.Background(), id, somePriority(rnd))
	if err != nil {
		c.t.Errorf("open: %v", err)
		return
	}
	defer h.Close()
	data := c.data[id]
	for range 1 + rnd.IntN(8) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rnd.IntN(2000))*time.Millisecond)
		switch op := rnd.IntN(10); op {
		case 0, 1, 2:
			off := rnd.IntN(len(data))
			p := make([]byte, rnd.IntN(3*chunk))
			n, err := h.ReadAt(ctx, p, int64(off))
			if want := data[off:min(off+n, len(data))]; !bytes.Equal(p[:n], want) {
				c.t.Errorf("wrong bytes at %d", off)
			}
			if end := off+len(p) > len(data); !allowed(err) && !(end && n == len(data)-off) || err == nil && n < len(p) {
				c.t.Errorf("read %d of %d bytes at %d of %d: %v", n, len(p), off, len(data), err)
			}
		case 3, 4:
			if err := h.Wait(ctx, func(p Progress) { c.plausible(p) }, someRanges(rnd)...); !allowed(err) {
				c.t.Errorf("wait: %v", err)
			}
		case 5, 6:
			if err := h.Want(ctx, Want{someRanges(rnd), somePriority(rnd)}, Want{someRanges(rnd), somePriority(rnd)}); !allowed(err) {
				c.t.Errorf("want: %v", err)
			}
		case 7:
			c.export(ctx, h, filepath.Join(c.dir, fmt.Sprintf("%d-%d", who, rnd.Uint64())), data)
		case 8:
			time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
		case 9:
			if have := h.Stored().Have(); have.Count() > 2 { // of its two holes
				i, _ := have.NextSet(rnd.IntN(crowdChunks))
				if have.Has(i) && !h.Manifest().IsHole(i) {
					c.reader.damage(id, i)
				}
			}
		}
		c.plausible(h.Progress())
		cancel()
	}
}

func (c *crowd) plausible(p Progress) {
	if p.Done < 0 || p.Done > p.Total || p.Fetched < 0 || p.Total > crowdChunks*chunk {
		c.t.Errorf("progress %+v", p)
	}
}

func (c *crowd) export(ctx context.Context, h *Handle, dest string, want []byte) {
	err := h.Export(ctx, dest, store.ExportOptions{Mode: store.Copy}, c.plausible)
	if !allowed(err) {
		c.t.Errorf("export: %v", err)
	}
	got, there := os.ReadFile(dest)
	if (err == nil) != (there == nil) || err == nil && !bytes.Equal(got, want) {
		c.t.Errorf("exported %d bytes, %v, %v", len(got), err, there)
	}
	os.Remove(dest)
}

// TestModel: whatever many do at once, nobody gets a wrong byte, nothing in use is evicted, and in the end nothing is
// left.
func TestModel(t *testing.T) {
	seeds := uint64(30)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		inPair(t, func(t *testing.T, p *pair) {
			c := newCrowd(p, seed)
			if seed%2 == 0 {
				p.slow(20)
			}
			var lives sync.WaitGroup
			for who := range 5 {
				rnd := rand.New(rand.NewPCG(seed, uint64(who)))
				lives.Go(func() {
					for range 6 {
						c.live(rnd, who)
					}
				})
			}
			lives.Wait()
			synctest.Wait()
			before := p.reader.received()
			time.Sleep(5 * time.Second)
			if n := p.reader.received(); n != before || len(c.fetch.UnderWay()) > 0 || len(c.fetch.handles) > 0 {
				t.Errorf("seed %d: %d chunks came for nobody, %d handles are open", seed, n-before, len(c.fetch.handles))
			}
			for id, n := range c.pins {
				if f, ok := p.reader.store.Get(id); n != 0 || ok && f.InUse() {
					t.Errorf("seed %d: %d pins are left, in use: %v", seed, n, ok && f.InUse())
				}
			}
			for _, id := range c.ids { // and all can be read still
				h, err := c.fetch.Open(context.Background(), id, swarm.Demand)
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(c.data[id]))
				if _, err := h.ReadAt(context.Background(), got, 0); err != nil || !bytes.Equal(got, c.data[id]) {
					t.Errorf("seed %d: afterwards: %v", seed, err)

				}
				h.Close()
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
