package linktest

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Fabric is a network of several hosts within the process, for tests, with what goes wrong in networks: delays, slow
// roads, cuts in one direction or both, broken connections, and hosts that die with or without a word. It uses package
// time alone, so that it works in a testing/synctest bubble. All methods are safe for concurrent use.
type Fabric struct {
	mu        sync.Mutex
	listeners map[memoryAddr]*memoryListener
	owners    map[memoryAddr]string // which host listens, or listened last, at an address
	ports     int                   // the last one that was given to port 0
	roads     map[[2]string]*road
	cables    map[*cable]struct{}
}

// NewFabric returns a network without hosts, on which all takes no time.
func NewFabric() *Fabric {
	return &Fabric{
		listeners: map[memoryAddr]*memoryListener{}, owners: map[memoryAddr]string{},
		roads: map[[2]string]*road{}, cables: map[*cable]struct{}{},
	}
}

// A cable is a connection as the fabric sees it.
type cable struct {
	from, to *Plug // who called whom
	a, b     *pipeEnd
	mute     bool // one of the two has died without a word
}

// Plug connects a host. Connections that are left of a time when it was switched off without a word are reset: the
// host does not know them any more.
func (f *Fabric) Plug(host string) *Plug {
	p := &Plug{fabric: f, host: host}
	f.each(func(c *cable) bool { return c.mute && (c.from.host == host || c.to.host == host) }, (*cable).snap)
	return p
}

// Unplug takes the host off the network: its listeners and connections are closed, and it gets no new ones. The others
// are told, as by the kernel of a machine whose process was killed; or are not, as when the power fails: then their
// connections hang until they give up, or until the host is back.
func (p *Plug) Unplug(silent bool) {
	f := p.fabric
	f.mu.Lock()
	p.out = true
	var listeners []*memoryListener
	for _, l := range f.listeners {
		if l.plug == p {
			listeners = append(listeners, l)
		}
	}
	f.mu.Unlock()
	f.each(func(c *cable) bool { return c.from == p || c.to == p }, func(c *cable) {
		mine := c.a
		if c.to == p {
			mine = c.b
		}
		if silent {
			c.mute = true
			mine.vanish()
		} else {
			mine.reset()
		}
	})
	for _, l := range listeners {
		l.Close()
	}
}

// Cut stops, or lets pass again, what goes from one host to another. What is sent meanwhile arrives afterwards.
func (f *Fabric) Cut(from, to string, cut bool) {
	f.change(from, to, func(r *road) { r.cut = cut })
}

// Slow sets how long bytes take from one host to another, and how many of them get through a second (0: any number).
func (f *Fabric) Slow(from, to string, delay time.Duration, rate int) {
	f.change(from, to, func(r *road) { r.delay, r.rate = delay, rate })
}

// Break resets the connections between two hosts, whoever made them.
func (f *Fabric) Break(a, b string) {
	f.each(func(c *cable) bool {
		return c.from.host == a && c.to.host == b || c.from.host == b && c.to.host == a
	}, (*cable).snap)
}

// snap resets a connection for both ends at once.
func (c *cable) snap() {
	c.a.out.snap()
	c.b.out.snap()
}

// each does something with the cables that are meant, one after the other.
func (f *Fabric) each(meant func(*cable) bool, do func(*cable)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.cables {
		if meant(c) {
			do(c)
		}
	}
}

func (f *Fabric) change(from, to string, set func(*road)) {
	f.mu.Lock()
	r := f.road(from, to)
	var on []*stream
	for c := range f.cables {
		for _, s := range []*stream{c.a.out, c.b.out} {
			if s.road == r {
				on = append(on, s)
			}
		}
	}
	f.mu.Unlock()
	r.change(set)
	for _, s := range on {
		s.wake()
	}
}

// road returns one direction between two hosts. The caller holds mu.
func (f *Fabric) road(from, to string) *road {
	key := [2]string{from, to}
	r := f.roads[key]
	if r == nil {
		r = &road{changed: make(chan struct{})}
		f.roads[key] = r
	}
	return r
}

// way returns the roads to whoever listens at an address, and back.
func (f *Fabric) way(from string, addr memoryAddr) (there, back *road) {
	f.mu.Lock()
	defer f.mu.Unlock()
	to, known := f.owners[addr]
	if !known {
		to = from
	}
	return f.road(from, to), f.road(to, from)
}

// connect makes a connection to a listener.
func (f *Fabric) connect(p *Plug, addr memoryAddr) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.listeners[addr]
	switch {
	case p.out:
		return nil, os.NewSyscallError("connect", syscall.ENETDOWN)
	case l == nil || len(l.queue) == cap(l.queue):
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	c := &cable{from: p, to: l.plug}
	c.a, c.b = newPipe(caller(addr.network, p.host), addr)
	c.a.out.on(f.road(p.host, l.plug.host))
	c.b.out.on(f.road(l.plug.host, p.host))
	open := 2 // ends
	c.a.closed, c.b.closed = f.forget(c, &open), f.forget(c, &open)
	f.cables[c] = struct{}{}
	l.queue <- c.b
	return c.a, nil
}

// forget returns what an end calls once when it is closed; after both, nobody needs the cable any more.
func (f *Fabric) forget(c *cable, open *int) func() {
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if *open--; *open == 0 {
			delete(f.cables, c)
		}
	})
}
