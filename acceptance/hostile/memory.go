package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// The attacks on the memory below: what docs/shm.md calls the header, the calls and the control words.

const (
	pageSize = 4096
	callsAt  = pageSize
)

// The words of a page of a side.
var controlWords = []int{0, 8, 64, 128, 192, 256, 320}

// region is the memory, mapped beside the link.
type region struct{ mem []byte }

func (x *attacker) open() (*region, error) {
	f, err := os.OpenFile(x.path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", x.path, err)
	}
	return &region{mem}, nil
}

func (r *region) close() { _ = unix.Munmap(r.mem) }

func (r *region) load(at int) uint64 { return binary.LittleEndian.Uint64(r.mem[at:]) }

func (r *region) store(at int, v uint64) { binary.LittleEndian.PutUint64(r.mem[at:], v) }

// channels is what the header says, within reason: it may have been scribbled over.
func (r *region) channels() int { return int(min(r.load(8)>>32, 64)) }

// rest waits until the attack is over.
func (x *attacker) rest() { time.Sleep(time.Until(x.end)) }

// rings makes positions impossible on links that are in use: far ahead, backwards, with flags that there are none of,
// and with words that are the host's to write.
func (x *attacker) rings() error {
	r, err := x.open()
	if err != nil {
		return err
	}
	defer r.close()
	values := []func(was uint64) uint64{
		func(was uint64) uint64 { return was - 1 },
		func(was uint64) uint64 { return was + 1<<20 },
		func(uint64) uint64 { return 1 << 63 },
		func(uint64) uint64 { return 1<<64 - 1 },
		func(uint64) uint64 { return rand.Uint64() },
		func(uint64) uint64 { return 0 },
	}
	for n := 0; x.on(); n++ {
		link, err := x.greet()
		if err != nil {
			x.codes["no greeting"]++ // an earlier blow has hit it
			continue
		}
		_, text, _ := strings.Cut(link.LocalAddr().String(), "#")
		channel, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		s, err := guestlink.NewSession(link, guestlink.Config{Guest: true})
		if err != nil {
			return err
		}
		x.readOn(s)
		page := (3 + 2*channel - n&1) * pageSize // the guest's, the host's
		at := page + controlWords[n/2%len(controlWords)]
		change := values[n/2/len(controlWords)%len(values)]
		r.store(at, change(r.load(at)))
		if n%3 == 0 {
			r.store(callsAt+8*channel, rand.Uint64())
		}
		time.Sleep(time.Millisecond)
		s.Close()
		x.codes["blows"]++
	}
	return nil
}

// flood opens links and closes them, and calls on all channels faster than anybody could open links.
func (x *attacker) flood() error {
	r, err := x.open()
	if err != nil {
		return err
	}
	defer r.close()
	half := x.end.Add(-time.Until(x.end) / 2)
	for time.Now().Before(half) {
		c, err := x.dial()
		if err != nil {
			return err
		}
		c.Close()
		x.codes["links"]++
	}
	channels := r.channels()
	for x.on() {
		for range 1000 {
			for i := range channels {
				r.store(callsAt+8*i, rand.Uint64()|1)
			}
			x.codes["calls"] += channels
		}
	}
	for i := range channels {
		r.store(callsAt+8*i, 0)
	}
	return nil
}

// scribble writes noise all over the region while files are read through it.
func (x *attacker) scribble() error {
	r, err := x.open()
	if err != nil {
		return err
	}
	defer r.close()
	var readers sync.WaitGroup
	readers.Go(func() {
		for x.on() {
			x.readSomething()
		}
	})
	for x.on() {
		for range 64 {
			r.store(rand.IntN(len(r.mem)/8)*8, rand.Uint64())
		}
		r.store(rand.IntN(10*pageSize/8)*8, rand.Uint64()) // where it hurts
		x.codes["words"] += 65
		if rand.IntN(100) == 0 {
			time.Sleep(10 * time.Millisecond) // a link may come to be
		}
	}
	readers.Wait()
	return nil
}

// readSomething reads from the file that this guest may read, for as long as the link bears it.
func (x *attacker) readSomething() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	link, err := shmring.Dial(ctx, x.path, shmring.Options{Timeout: time.Second})
	if err != nil {
		return
	}
	stop := time.AfterFunc(time.Until(x.end), func() { link.Close() })
	defer stop.Stop()
	defer link.Close()
	if _, err := guestlink.Greet(link, "hostile"); err != nil {
		return
	}
	s, err := guestlink.NewSession(link, guestlink.Config{Guest: true})
	if err != nil {
		return
	}
	defer s.Close()
	c := x.readOn(s)
	for c != nil {
		if _, err := c.Receive(); err != nil {
			return
		}
	}
}

// readOn asks for bytes of the file that this guest may read; nil if that is not possible.
func (x *attacker) readOn(s *guestlink.Session) *guestlink.Conn {
	c, err := x.talk(s, guestlink.ForPull)
	if err != nil {
		return nil
	}
	_ = c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: x.own})
	_ = c.SendMessage(guestlink.Read, 3, guestlink.ReadRequest{First: 0, Count: 64})
	return c
}
