package fetch

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
)

// slow makes the holder send n chunks a second.
func (p *pair) slow(n int64) { p.holder.swarm.SetLimits(n*chunk, 0) }

// arrivals tells, once stopped, in which order chunks have come to a handle.
func arrivals(h *Handle) (stop func() []int) {
	var order []int
	done := make(chan struct{})
	var watching sync.WaitGroup
	seen := h.Stored().Have()
	watching.Go(func() {
		for over := false; !over; {
			select {
			case <-done:
				over = true
			case <-time.After(time.Millisecond):
			}
			have := h.Stored().Have()
			have.AndNot(seen)
			for i, ok := have.NextSet(0); ok; i, ok = have.NextSet(i + 1) {
				order = append(order, i)
			}
			seen.Or(have)
		}
	})
	return func() []int {
		close(done)
		watching.Wait()
		return order
	}
}

// wait waits, in the bubble's time, until something holds.
func (p *pair) wait(what string, ok func() bool) {
	p.t.Helper()
	for range 100_000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	p.t.Fatalf("never: %s", what)
}

func want(t *testing.T, h *Handle, all ...Want) {
	t.Helper()
	if err := h.Want(context.Background(), all...); err != nil {
		t.Fatal(err)
	}
}

// TestPriorities: of what several handles want, the higher priority comes first, whatever was wanted first.
func TestPriorities(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.slow(20)
		h := p.open(swarm.Repair)
		stop := arrivals(h)
		want(t, h, Want{[]Range{{0, 4}}, swarm.Repair})
		want(t, p.open(swarm.Repair), Want{[]Range{{4, 8}}, swarm.Distribute})
		want(t, p.open(swarm.Repair), Want{[]Range{{8, 12}}, swarm.Start})
		want(t, p.open(swarm.Repair), Want{[]Range{{12, 16}}, swarm.ReadAhead})
		p.read(p.open(swarm.Demand), 19)
		p.wait("all wants are fulfilled", func() bool { return len(p.fetch.UnderWay()) == 0 })
		order := stop()
		if len(order) != 17 {
			t.Fatalf("order %v", order)
		}
		// The first few were on their way before anybody said that there is something better.
		if late := order[8:]; !slices.IsSortedFunc(late, func(a, b int) int { return b/4 - a/4 }) {
			t.Errorf("order %v", order)
		}
		if n := p.reader.received(); n != 17 {
			t.Errorf("received %d chunks for 17", n)
		}
	})
}

// TestWantsChange: what is not wanted any more does not come, what is wanted before and after comes once, and a higher
// priority counts at once.
func TestWantsChange(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.slow(10)
		h := p.open(swarm.Repair)
		want(t, h, Want{[]Range{{0, 20}}, swarm.Repair})
		p.wait("some came", func() bool { return p.reader.received() >= 3 })
		stop := arrivals(h)
		lack := h.lacking(h.bits(h.All()))
		var rest []int // the last six that lack, backwards
		for i := 19; len(rest) < 6; i-- {
			if lack.Has(i) {
				rest = append(rest, i)
			}
		}
		var ranges []Range
		for _, i := range rest {
			ranges = append(ranges, Range{i, i + 1})
		}
		want(t, h, Want{ranges, swarm.Start})
		if got := h.Progress(); got.Total < 6*chunk-7 || got.Total > 20*chunk {
			t.Errorf("progress %+v", got)
		}
		p.wait("they are here", func() bool { return len(p.fetch.UnderWay()) == 0 })
		order := stop()
		for _, i := range rest {
			if !slices.Contains(order, i) {
				t.Errorf("chunk %d did not come: %v", i, order)
			}
		}
		if len(order) > 6+5 { // what was on its way then
			t.Errorf("%d chunks came, of which 6 are wanted: %v", len(order), order)
		}
		before := p.reader.received()
		time.Sleep(10 * time.Second)
		if n := p.reader.received(); n != before || h.Stored().Complete() {
			t.Errorf("%d chunks came that nobody wants", n-before)
		}
		want(t, h) // nothing
		want(t, h, Want{[]Range{h.All()}, swarm.ReadAhead}, Want{[]Range{{3, 5}}, swarm.Demand})
		p.wait("all is here", h.Stored().Complete)
		if n := p.reader.received(); n != 20 {
			t.Errorf("received %d chunks, want each of 20 once", n)
		}
	})
}

// script is a Swarm that does what a test says.
type script struct {
	manifest *content.Manifest
	data     []byte
	dir      string // of the store
	fetch    func(ctx context.Context, f swarm.File, want content.Bits, prio Priority) error

	mu    sync.Mutex
	calls []content.Bits
}

func (s *script) Manifest(context.Context, content.Digest) (*content.Manifest, error) {
	return s.manifest, nil
}

func (s *script) Fetch(ctx context.Context, f swarm.File, want content.Bits, prio Priority, progress func(swarm.Progress)) error {
	s.mu.Lock()
	s.calls = append(s.calls, want)
	s.mu.Unlock()
	progress(swarm.Progress{})
	return s.fetch(ctx, f, want, prio)
}

// fetcher returns a Fetcher over a script, which from now on has random data of a number of chunks.
func (s *script) fetcher(t *testing.T, chunks int, quota int64) *Fetcher {
	t.Helper()
	s.data = make([]byte, chunks*chunk)
	rand.NewChaCha8([32]byte{byte(chunks)}).Read(s.data)
	var err error
	s.manifest, err = content.ChunkFile(context.Background(), source(t, s.data), int64(len(s.data)), content.ChunkOptions{ChunkSize: chunk})
	if err != nil {
		t.Fatal(err)
	}
	s.dir = filepath.Join(t.TempDir(), "store")
	st, err := store.Open(store.Options{Dir: s.dir, Quota: store.Quota{Bytes: quota}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return New(Config{Store: st, Swarm: s})
}

func source(t *testing.T, data []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestReadAheadKeepsItsOrder: ranges that are read ahead are asked for in their order, a bounded part at a time.
func TestReadAheadKeepsItsOrder(t *testing.T) {
	done := make(chan struct{})
	s := &script{fetch: func(ctx context.Context, f swarm.File, want content.Bits, prio Priority) error {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	synctest.Test(t, func(t *testing.T) {
		done = make(chan struct{})
		f := s.fetcher(t, 512, 0)
		h, err := f.Open(t.Context(), s.manifest.ID(), swarm.ReadAhead)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		want(t, h, Want{[]Range{{500, 512}, {100, 400}, {0, 500}}, swarm.ReadAhead})
		synctest.Wait()
		calls := func() (all []content.Bits) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return slices.Clone(s.calls)
		}
		if n := len(calls()); n != aheadBatches {
			t.Fatalf("%d batches are wanted at once, want %d", n, aheadBatches)
		}
		if got := h.Progress().Total; got != 512*chunk {
			t.Errorf("%d bytes are said to be wanted, want all", got)
		}
		first := content.NewBits(512)
		for _, c := range calls() {
			if c.Count() != aheadBatch/chunk {
				t.Errorf("a batch of %d chunks", c.Count())
			}
			first.Or(c)
		}
		if !first.Has(500) || !first.Has(511) || !first.Has(100) || first.Has(0) || first.Has(399) {
			t.Errorf("what is first in order is not asked for first: %v", Ranges(first))
		}
		close(done)
		synctest.Wait()
		for _, c := range calls() {
			first.Or(c)
		}
		if !first.Full() {
			t.Errorf("not all is asked for: %v", Ranges(first))
		}
	})
}

// TestHealingIsBounded: a disk that damages all that is written to it ends in an error, not in a loop.
func TestHealingIsBounded(t *testing.T) {
	s := &script{}
	s.fetch = func(_ context.Context, file swarm.File, want content.Bits, _ Priority) error {
		for i, ok := want.NextSet(0); ok; i, ok = want.NextSet(i + 1) {
			if err := file.WriteChunk(i, s.data[i*chunk:(i+1)*chunk]); err != nil {
				return err
			}
			flip(t, s.dir, file.ID(), i)
		}
		return nil
	}
	f := s.fetcher(t, 3, 0)
	for what, do := range map[string]func(h *Handle) error{
		"read": func(h *Handle) error { _, err := h.ReadAt(t.Context(), make([]byte, 10), 0); return err },
		"export": func(h *Handle) error {
			return h.Export(t.Context(), filepath.Join(t.TempDir(), "x"), store.ExportOptions{Mode: store.Copy}, nil)
		},
		"heal": func(h *Handle) error {
			return h.Export(t.Context(), filepath.Join(t.TempDir(), "y"), store.ExportOptions{Mode: store.Auto}, nil)
		},
	} {
		h, err := f.Open(t.Context(), s.manifest.ID(), swarm.Demand)
		if err != nil {
			t.Fatal(err)
		}
		s.calls = nil
		if err := do(h); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
		if n := len(s.calls); n < maxHeals || n > maxHeals+1 {
			t.Errorf("%s: fetched %d times, want %d, after a first time", what, n, maxHeals)
		}
		h.Close()
	}
	s.fetch = func(context.Context, swarm.File, content.Bits, Priority) error { return swarm.ErrNoHolder }
	h, err := f.Open(t.Context(), s.manifest.ID(), swarm.Demand)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i := range 3 {
		if err := h.Stored().WriteChunk(i, s.data[i*chunk:(i+1)*chunk]); err != nil {
			t.Fatal(err)
		}
	}
	flip(t, s.dir, h.Stored().ID(), 1)
	err = h.Export(t.Context(), filepath.Join(t.TempDir(), "z"), store.ExportOptions{Mode: store.Copy}, nil)
	if !errors.Is(err, store.ErrCorrupt) || !errors.Is(err, swarm.ErrNoHolder) {
		t.Errorf("damage that nobody can heal: %v", err)
	}
}

// TestNoSpace: what does not fit is refused before it is fetched, and changes nothing that was wanted.
func TestNoSpace(t *testing.T) {
	s := &script{fetch: func(ctx context.Context, f swarm.File, want content.Bits, prio Priority) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	synctest.Test(t, func(t *testing.T) {
		f := s.fetcher(t, 8, 5*chunk)
		h, err := f.Open(t.Context(), s.manifest.ID(), swarm.Demand)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		want(t, h, Want{[]Range{{0, 4}}, swarm.Start})
		synctest.Wait()
		for what, err := range map[string]error{
			"want":   h.Want(t.Context(), Want{[]Range{{0, 4}}, swarm.Start}, Want{[]Range{{6, 8}}, swarm.ReadAhead}),
			"wait":   h.Wait(t.Context(), nil, h.All()),
			"export": h.Export(t.Context(), filepath.Join(t.TempDir(), "x"), store.ExportOptions{Mode: store.Copy}, nil),
			"file":   func() error { _, err := h.File(t.Context(), h.All()); return err }(),
		} {
			if !errors.Is(err, store.ErrNoSpace) {
				t.Errorf("%s: %v", what, err)
			}
		}
		synctest.Wait()
		if len(s.calls) != 1 || h.Progress().Total != 4*chunk {
			t.Errorf("fetched %d times, progress %+v", len(s.calls), h.Progress())
		}
	})
}

// TestCloseWithdraws: with its last handle a fetch ends, every call says so, and nothing runs or is kept any more.
func TestCloseWithdraws(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		pins := 0
		p.fetch.pin = func(content.Digest) func() { pins++; return func() { pins-- } }
		p.slow(5)
		a, b := p.open(swarm.Start), p.open(swarm.Demand)
		want(t, a, Want{[]Range{a.All()}, swarm.Start})
		failed := make(chan error, 3)
		go func() { failed <- a.Wait(context.Background(), nil, a.All()) }()
		go func() { failed <- b.Wait(context.Background(), nil, Range{10, 20}) }()
		go func() {
			_, err := b.ReadAt(context.Background(), make([]byte, len(p.data)), 0)
			failed <- err
		}()
		time.Sleep(time.Second)
		if !a.Stored().InUse() || pins != 2 {
			t.Errorf("in use: %v, pinned %d times", a.Stored().InUse(), pins)
		}
		if err := a.Stored().Drop(context.Background(), a.Stored().Have()); !errors.Is(err, store.ErrInUse) {
			t.Errorf("evicted under a handle: %v", err)
		}
		if now := p.fetch.UnderWay()[p.id]; now.Total != int64(len(p.data)) || now.Done == 0 || now.Sources != 1 {
			t.Errorf("under way: %+v", now)
		}
		b.Close()
		b.Close()
		for range 2 {
			if err := <-failed; err != ErrClosed {
				t.Errorf("closed: %v", err)
			}
		}
		got := p.reader.received()
		p.wait("it goes on for the other", func() bool { return p.reader.received() > got+2 })
		a.Close()
		if err := <-failed; err != ErrClosed {
			t.Errorf("closed: %v", err)
		}
		synctest.Wait()
		got = p.reader.received()
		time.Sleep(10 * time.Second)
		if n := p.reader.received(); n != got || a.Stored().InUse() || pins != 0 || len(p.fetch.handles) != 0 || len(p.fetch.UnderWay()) != 0 {
			t.Errorf("%d chunks came for nobody; in use: %v, %d pins, handles %v", n-got, a.Stored().InUse(), pins, p.fetch.handles)
		}
		if err := a.Want(context.Background(), Want{[]Range{a.All()}, swarm.Start}); err != ErrClosed {
			t.Errorf("want of a closed handle: %v", err)
		}
		if _, err := a.ReadAt(context.Background(), make([]byte, 1), 0); err != ErrClosed {
			t.Errorf("read of a closed handle: %v", err)
		}
	})
}

// TestExportFetchesAndHeals: one call brings, heals and writes, and says what it does.
func TestExportFetchesAndHeals(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		h := p.open(swarm.Distribute)
		dest := filepath.Join(t.TempDir(), "dest")
		var fetching, exporting Progress
		tell := func(now Progress) {
			if now.Exporting {
				exporting = now
			} else {
				fetching = now
			}
		}
		if err := h.Export(context.Background(), dest, store.ExportOptions{Mode: store.Copy}, tell); err != nil {
			t.Fatal(err)
		}
		size := int64(len(p.data))
		if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, p.data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if fetching.Done != size || fetching.Fetched != size || exporting.Done != size || exporting.Total != size || exporting.Fetched != size {
			t.Errorf("fetching %+v, exporting %+v", fetching, exporting)
		}
		p.reader.damage(p.id, 3)
		p.reader.damage(p.id, 4)
		if err := h.Export(context.Background(), dest+"2", store.ExportOptions{Mode: store.HardLink}, tell); err != nil || exporting.Fetched != size+2*chunk {
			t.Errorf("%v; exporting %+v", err, exporting)
		}
		if got, err := os.ReadFile(dest + "2"); err != nil || !bytes.Equal(got, p.data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := h.Export(context.Background(), dest, store.ExportOptions{Mode: store.Copy}, nil); !errors.Is(err, store.ErrExists) {
			t.Errorf("onto a file: %v", err)
		}
	})
}

func TestExportLooksFirst(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		dest := filepath.Join(t.TempDir(), "dest")
		if err := os.WriteFile(dest, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		err := p.open(swarm.Distribute).Export(context.Background(), dest, store.ExportOptions{Mode: store.Copy}, nil)
		if !errors.Is(err, store.ErrExists) || p.reader.received() != 0 {
			t.Errorf("%v, after %d chunks", err, p.reader.received())
		}
	})
}

// TestFile: the descriptor has what was asked for, whole and healed.
func TestFile(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		h := p.open(swarm.Demand)
		p.whole(h)
		h.Close()
		p.reader.close()
		p.reader.start()
		p.fetch = New(Config{Store: p.reader.store, Swarm: p.reader.swarm})
		p.reader.damage(p.id, 2)
		p.reader.damage(p.id, 9)
		h = p.open(swarm.Demand)
		f, err := h.File(context.Background(), Range{1, 6})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5*chunk)
		if _, err := f.ReadAt(got, chunk); err != nil || !bytes.Equal(got, p.data[chunk:6*chunk]) {
			t.Errorf("wrong bytes, %v", err)
		}
		if n := p.reader.received(); n != 1 {
			t.Errorf("%d chunks were healed, want the one that was asked for", n)
		}
		f.Close()
	})
}
