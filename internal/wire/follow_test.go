package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

func TestNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 100_000
		file := &testFile{id: content.Digest{1}, have: content.NewBits(chunks)}
		file.have.SetRange(10, 20)
		hb := newHolder(file)
		hb.peers = slices.Repeat([]PeerID{{7}}, MaxPeers+5)
		hb.onOpen = func(ctx context.Context, s *Session, id content.Digest) error {
			return s.SendHave(id, 33) // before the snapshot is made
		}
		ha := newHolder()
		c := pipePair(t, ha, hb)
		if err := c.b.SendHave(file.id, 1); err != ErrNotOpen {
			t.Errorf("news for nobody: %v", err)
		}
		have, peers, err := c.a.Open(t.Context(), file.id, chunks, true)
		if err != nil || have.Count() != 10 || !have.Has(10) || len(peers) != MaxPeers || peers[0] != (PeerID{7}) {
			t.Fatalf("open: %v, %d chunks, %d peers", err, have.Count(), len(peers))
		}
		ha.await(t, func() bool { return ha.heard[file.id][33] })

		before := c.a.Stats().BytesIn
		for i := chunks - 1; i >= 0; i-- { // one at a time, and each twice
			if err := c.b.SendHave(file.id, i, i, -1, chunks); err != nil {
				t.Fatal(err)
			}
		}
		ha.await(t, func() bool { return len(ha.heard[file.id]) == chunks })
		synctest.Wait()
		if n := c.a.Stats().BytesIn - before; n > 10_000 {
			t.Errorf("it took %d bytes to tell of one run", n)
		}

		var ids []PeerID
		for i := range 3 * MaxPeers {
			ids = append(ids, PeerID{1, byte(i), 5})
		}
		if err := c.b.SendPeers(file.id, slices.Concat(ids, ids)); err != nil {
			t.Fatal(err)
		}
		ha.await(t, func() bool { return len(ha.met) >= MaxPeers })
		if !slices.Equal(ha.met, ids[2*MaxPeers:]) {
			t.Errorf("met %d peers", len(ha.met))
		}
		c.close(t)
		if err := c.b.SendHave(file.id, 1); !errors.Is(err, ErrEnded) {
			t.Error(err)
		}
	})
}

// TestNewsKeepCompany: news that come one by one are sent together, and the first at once.
func TestNewsKeepCompany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &testFile{id: content.Digest{1}, have: content.NewBits(1000)}
		p := newRaw(t, newHolder(file), Options{})
		p.hello()
		p.follow(file.id)
		time.Sleep(time.Second)
		begin := time.Now()
		p.s.SendHave(file.id, 500)
		p.expect(frameHave)
		if time.Since(begin) != 0 {
			t.Errorf("the first news waited for %v", time.Since(begin))
		}
		for i := range 100 {
			p.s.SendHave(file.id, i)
			synctest.Wait()
		}
		f := p.expect(frameHave)
		if got, err := parseHave(f.payload, 1000, nil); len(got) != 100 || err != nil {
			t.Errorf("%d chunks in a frame, %v", len(got), err)
		}
		if time.Since(begin) != NewsInterval {
			t.Errorf("they waited for %v", time.Since(begin))
		}
		p.s.SendHave(file.id, 501)
		synctest.Wait()
		p.send(framePing, 0, 1) // its answer takes them along
		p.expect(framePong)
		p.expect(frameHave)
		if time.Since(begin) != NewsInterval {
			t.Errorf("they waited for %v", time.Since(begin))
		}
	})
}

// TestReopen closes and opens files in a loop. Handles are used again, and no news of before is taken for news of now.
func TestReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var files []*testFile
		for i := range 5 {
			files = append(files, &testFile{id: content.Digest{byte(i + 1)}, have: content.NewBits(10 * (i + 1))})
		}
		ha, hb := newHolder(), newHolder(files...)
		c := pipePair(t, ha, hb)
		for i := range 100 {
			f := files[i%len(files)]
			if _, _, err := c.a.Open(t.Context(), f.id, f.have.Len(), true); err != nil {
				t.Fatal(err)
			}
			c.b.SendHave(f.id, f.have.Len()-1) // out of range for the next file but one, if taken for its
			c.a.CloseFile(f.id)
			c.a.CloseFile(f.id) // no harm
			if err := c.a.Chunk(t.Context(), f.id, 0, 1, 2, make([]byte, 1)); err != ErrNotOpen {
				t.Fatal(err)
			}
		}
		c.close(t)
		if hb.opens != 100 || len(hb.closed) != 100 {
			t.Errorf("%d opened, %d closed", hb.opens, len(hb.closed))
		}
		if len(c.a.asks.handles) != 1 {
			t.Errorf("%d handles", len(c.a.asks.handles))
		}
	})
}

// TestOpenAbandoned: the caller leaves while the other side thinks about it.
func TestOpenAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &testFile{id: content.Digest{1}, have: content.NewBits(10)}
		hb := newHolder(file)
		release := make(chan struct{})
		hb.onOpen = func(context.Context, *Session, content.Digest) error { <-release; return nil }
		c := pipePair(t, newHolder(), hb)
		for _, id := range []content.Digest{file.id, {9}} { // the second is not found in the end
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, _, err := c.a.Open(ctx, id, 10, true); err != context.DeadlineExceeded {
				t.Fatal(err)
			}
			cancel()
			if _, _, err := c.a.Open(t.Context(), id, 10, true); !errors.Is(err, ErrOpen) {
				t.Errorf("opened anew before the first is answered: %v", err)
			}
		}
		release <- struct{}{}
		release <- struct{}{}
		if got := <-hb.closed; got != file.id {
			t.Errorf("closed %v", got)
		}
		synctest.Wait()
		close(release)
		if _, _, err := c.a.Open(t.Context(), file.id, 10, true); err != nil {
			t.Error(err)
		}
		c.close(t)
	})
}

// TestOpenAtTheEnd: the session ends while the handler opens; it must hear of the end.
func TestOpenAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &testFile{id: content.Digest{1}, have: content.NewBits(10)}
		h := newHolder(file)
		h.onOpen = func(ctx context.Context, _ *Session, _ content.Digest) error { <-ctx.Done(); return nil }
		p := newRaw(t, h, Options{})
		p.hello()
		p.say(open{file: file.id}.append(nil, 0))
		p.say(open{file: content.Digest{2}, handle: 1}.append(nil, 1)) // never gets its turn
		synctest.Wait()
		p.conn.Close()
		<-p.ended
		if h.opens != 1 || len(h.closed) != 1 {
			t.Errorf("%d opened, %d closed", h.opens, len(h.closed))
		}
	})
}

func TestTooManyFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var files []*testFile
		for i := range 5 {
			files = append(files, &testFile{id: content.Digest{byte(i + 1)}, have: content.NewBits(1)})
		}
		c := pipePairOptions(t, nil, newHolder(files...), Options{}, Options{MaxFiles: 4})
		for i, f := range files {
			_, _, err := c.a.Open(t.Context(), f.id, 1, true)
			if (i == 4) != errors.Is(err, ErrOpen) {
				t.Errorf("file %d: %v", i, err)
			}
		}
		c.close(t)
	})
}

// TestSnapshotOfAnotherFile: the two sides must agree on the number of chunks.
func TestSnapshotOfAnotherFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaw(t, nil, Options{})
		p.hello()
		opened := make(chan error)
		go func() {
			_, _, err := p.s.Open(t.Context(), content.Digest{1}, 8, true)
			opened <- err
		}()
		f := p.expect(frameOpen)
		p.send(frameData, flagLast, f.id, snapshot{have: content.NewBits(9)}.encode()...)
		p.violated("Data")
		if err := <-opened; !errors.Is(err, ErrEnded) {
			t.Error(err)
		}
	})
}

// TestLongAnswers: a snapshot of the largest file and a manifest that needs many parts.
func TestLongAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &testFile{id: content.Digest{1}, have: content.NewBits(content.MaxChunks)}
		for i := 0; i < content.MaxChunks; i += 2 + i%3 {
			file.have.Set(i)
		}
		hb := newHolder(file)
		manifest := make([]byte, 5*PartSize+1)
		for i := range manifest {
			manifest[i] = byte(i >> 10)
		}
		hb.onManifest = func(context.Context) ([]byte, error) { return manifest, nil }
		c := pipePair(t, nil, hb)
		have, _, err := c.a.Open(t.Context(), file.id, content.MaxChunks, true)
		if err != nil || !have.Equal(file.have) {
			t.Errorf("snapshot of %d chunks: %v", have.Count(), err)
		}
		got, err := c.a.Manifest(t.Context(), file.id)
		if err != nil || !slices.Equal(got, manifest) {
			t.Errorf("manifest of %d bytes: %v", len(got), err)
		}
		manifest = nil
		if got, err := c.a.Manifest(t.Context(), file.id); err != nil || len(got) != 0 {
			t.Errorf("empty manifest: %d bytes, %v", len(got), err)
		}
		c.close(t)
	})
}

// TestLargeChunks: chunks of the largest size go through one by one where memory allows no more.
func TestLargeChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 1, content.MaxChunkSize)
		c := pipePairOptions(t, nil, newHolder(file), Options{}, Options{})
		if _, _, err := c.a.Open(t.Context(), file.id, 1, true); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 6)
		for range cap(done) {
			go func() {
				buf := make([]byte, content.MaxChunkSize)
				err := c.a.Chunk(t.Context(), file.id, 0, len(buf), 2, buf)
				if err == nil && !slices.Equal(buf, file.chunks[0]) {
					err = fmt.Errorf("the chunk differs")
				}
				done <- err
			}()
		}
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		c.close(t)
	})
}
