package guestlink_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"testing"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
)

// mux is a frame of the multiplexer on a link: docs/guestlink.md.
func mux(number uint32, kind byte, flags uint16, stream, length uint32, body []byte) []byte {
	m := []byte{0, kind}
	m = binary.BigEndian.AppendUint16(m, flags)
	m = binary.BigEndian.AppendUint32(m, stream)
	m = binary.BigEndian.AppendUint32(m, length)
	b := []byte{byte(guestlink.Mux), 0, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, number)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m)+len(body)))
	table := crc32.MakeTable(crc32.Castagnoli)
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(crc32.Checksum(b, table), table, m))
	return append(append(b, m...), body...)
}

const (
	data, window  = 0, 1
	syn, fin, rst = 1, 4, 8
)

// hears has a host's session read what a guest says after the greeting, and returns how it ended.
func hears(t testing.TB, said []byte) error {
	t.Helper()
	g, h := linktest.Pipe()
	host, err := guestlink.NewSession(h, guestlink.Config{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = g.Write(said)
		g.(interface{ CloseWrite() error }).CloseWrite()
		_, _ = io.Copy(io.Discard, g)
		g.Close()
	}()
	go func() {
		for {
			x, err := host.Accept()
			if err != nil {
				return
			}
			go func() {
				defer x.Close()
				if _, err := x.Started(); err == nil {
					_, _ = io.Copy(io.Discard, x)
				}
			}()
		}
	}()
	<-host.Done()
	defer host.Close()
	return host.Err()
}

// TestHostileMultiplexer: what the multiplexer alone would let pass, or leave behind, ends the link.
func TestHostileMultiplexer(t *testing.T) {
	many := func(n int, flags uint16) (all []byte) {
		for i := range uint32(n) {
			all = append(all, mux(i, window, flags, 1+2*i, 0, nil)...)
		}
		return all
	}
	beyond := mux(0, window, syn, 1, 0, nil)
	for n := range uint32(guestlink.HostWindow/guestlink.MaxPiece + 1) {
		beyond = append(beyond, mux(1+n, data, 0, 1, guestlink.MaxPiece, make([]byte, guestlink.MaxPiece))...)
	}
	for name, c := range map[string]struct {
		said []byte
		want error
	}{
		"nothing":              {nil, io.EOF},
		"a stream":             {mux(0, window, syn, 1, 0, nil), io.EOF},
		"a stream with bytes":  {mux(0, data, syn, 1, 3, []byte("abc")), io.EOF},
		"of no stream":         {mux(0, data, 0, 1, 3, []byte("abc")), io.EOF}, // it may have been closed here
		"all streams":          {many(guestlink.MaxStreams, syn), io.EOF},
		"a stream too many":    {many(guestlink.MaxStreams+1, syn), guestlink.ErrProtocol},
		"many, reset at once":  {many(1000, syn|rst), io.EOF},
		"many, closed at once": {many(1000, syn|fin), guestlink.ErrProtocol}, // this side has not closed them so soon
		"a ping":               {mux(0, 2, syn, 0, 7, nil), guestlink.ErrProtocol},
		"going away":           {mux(0, 3, 0, 0, 0, nil), guestlink.ErrProtocol},
		"the host's stream":    {mux(0, window, syn, 2, 0, nil), guestlink.ErrProtocol},
		"twice":                {append(mux(0, window, syn, 1, 0, nil), mux(1, window, syn, 1, 0, nil)...), guestlink.ErrProtocol},
		"backwards":            {append(mux(0, window, syn|rst, 5, 0, nil), mux(1, window, syn, 3, 0, nil)...), guestlink.ErrProtocol},
		"stream 0":             {mux(0, data, 0, 0, 0, nil), guestlink.ErrProtocol},
		"unknown flags":        {mux(0, window, 16|syn, 1, 0, nil), guestlink.ErrProtocol},
		"a length of its own":  {mux(0, data, syn, 1, 2, []byte("abc")), guestlink.ErrProtocol},
		"a piece too long":     {mux(0, data, syn, 1, guestlink.MaxPiece+1, make([]byte, guestlink.MaxPiece+1)), guestlink.ErrProtocol},
		"beyond the window":    {beyond, guestlink.ErrProtocol},
		"a number twice":       {append(mux(0, window, syn, 1, 0, nil), mux(0, window, 0, 1, 0, nil)...), guestlink.ErrProtocol},
		"a number left out":    {append(mux(0, window, syn, 1, 0, nil), mux(2, window, 0, 1, 0, nil)...), guestlink.ErrProtocol},
		"a frame of streams":   {frame(guestlink.List, 0, []byte("{}")), guestlink.ErrProtocol},
		"cut":                  {mux(0, data, syn, 1, 3, []byte("abc"))[:29], io.ErrUnexpectedEOF},
	} {
		if err := hears(t, c.said); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestTornMultiplexer flips every bit of what is said of a stream: none is taken for what was sent.
func TestTornMultiplexer(t *testing.T) {
	good := mux(0, window, syn, 1, 0, nil)
	for bit := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if err := hears(t, bad); !errors.Is(err, guestlink.ErrProtocol) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("with bit %d flipped: %v", bit, err)
		}
	}
}

// FuzzSession gives a host's session anything to read after the greeting: it ends when that ends, or before, for a
// reason that has a name, and holds no more than it may.
func FuzzSession(f *testing.F) {
	start := frame(guestlink.Start, 0, []byte{1, 0})
	f.Add(append(mux(0, data, syn, 1, uint32(len(start)), start), mux(1, window, fin, 1, 0, nil)...))
	f.Add(append(mux(0, window, syn, 1, 1<<31, nil), mux(1, data, rst, 1, 100, make([]byte, 100))...))
	f.Add(append(frame(guestlink.Beat, 0, nil), frame(guestlink.Failed, 1, []byte(`{"code":"retry","message":"x"}`))...))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		var net net.Error
		var why *guestlink.Failure
		err := hears(t, repaired(said))
		if !errors.Is(err, guestlink.ErrProtocol) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &why) && !errors.As(err, &net) {
			t.Fatalf("an unnamed error: %v", err)
		}
	})
}

// repaired gives every frame the checksum and the number that it should have, as a fuzzer would never find one.
func repaired(said []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	p := bytes.Clone(said)
	number := uint32(0)
	for b := p; len(b) >= 16; number++ {
		binary.LittleEndian.PutUint32(b[4:], number)
		n := int(min(binary.LittleEndian.Uint32(b[8:]), uint32(len(b)-16)))
		covered := b[16 : 16+n]
		if guestlink.Kind(b[0]) == guestlink.Mux {
			covered = covered[:min(12, n)]
		}
		binary.LittleEndian.PutUint32(b[12:], crc32.Update(crc32.Checksum(b[:12], table), table, covered))
		b = b[16+n:]
	}
	return p
}

// FuzzStart gives a stream anything for its first frame: it is what a stream is for, or an error that has a name.
func FuzzStart(f *testing.F) {
	f.Add(frame(guestlink.Start, 0, []byte{1, 0}))
	f.Add(frame(guestlink.Start, 0, []byte{255, 1, 9, 9}))
	f.Add(frame(guestlink.Start, 0, nil))
	f.Fuzz(func(t *testing.T, said []byte) {
		if len(said) == 0 || len(said) > guestlink.MaxPiece {
			return
		}
		g, h := linktest.Pipe()
		host, err := guestlink.NewSession(h, guestlink.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		defer g.Close()
		go func() { _, _ = g.Write(mux(0, data, syn|fin, 1, uint32(len(said)), said)) }()
		x, err := host.Accept()
		if err != nil {
			t.Fatal(err)
		}
		purpose, err := x.Started()
		if err == nil && purpose == 0 || err != nil && !errors.Is(err, guestlink.ErrProtocol) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("it is for %s, %v", purpose, err)
		}
	})
}
