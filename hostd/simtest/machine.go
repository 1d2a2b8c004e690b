package simtest

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/virtswarm/virtswarm/hostd"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// Timings of the hosts and of those who wait for them, in virtual time.
const (
	lanDelay     = 200 * time.Microsecond
	hostTimeout  = 4 * time.Second
	startTimeout = 2 * time.Minute
)

// machine is a computer: it has a disk, a place in the network and, most of the time, a daemon. Its methods are called
// by one goroutine at a time, but for call, running and view.
type machine struct {
	w       *world
	name    string
	n       int
	files   *disktest.Memory // what is on the disk; changed with mu held
	fault   *disktest.Fault  // the disk as the daemon of this life sees it
	vms     *vms             // what runs here
	trap    trap
	room    room
	lives   int
	disks   int // that this machine has had; changed with mu held
	plug    *linktest.Plug
	can     int          // the highest cluster version of its program
	skew    atomic.Int64 // by how many nanoseconds its wall clock is ahead
	shunned atomic.Bool  // it was removed from the cluster against its will
	stop    context.CancelFunc
	done    chan error // the daemon's end
	busy    sync.Mutex // held while the nemesis has it in hand; only tried

	mu    sync.Mutex
	host  *hostd.Host // nil unless the daemon runs
	life  context.Context
	die   context.CancelFunc
	calls sync.WaitGroup
	out   []string         // where calls write to that have not ended well
	id    placement.HostID // that its daemon has, or had last
	// fallen: its daemon has given up and was not started since.
	fallen bool
}

func newMachine(w *world, n int) *machine {
	m := &machine{w: w, n: n, name: string(rune('a' + n)), files: disktest.NewMemory(0), can: w.oldest()}
	m.vms = newVMs(m)
	return m
}

// Directories of every disk.
const (
	dataDir = "/data"
	outDir  = "/out" // where pulls write to
)

func (m *machine) addr() string { return m.name + ":7117" }

// now is what the machine's wall clock shows.
func (m *machine) now() time.Time { return time.Now().Add(time.Duration(m.skew.Load())) }

// disk returns what is on the disk, and which one of the machine's that is.
func (m *machine) disk() (files *disktest.Memory, disks int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.files, m.disks
}

// running says whether the daemon runs.
func (m *machine) running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.host != nil
}

// call calls the daemon, if it runs. The context ends with the daemon's life, and whatever a call returns that ended
// when the daemon was dead is nobody's word: alive is false then.
func (m *machine) call(do func(ctx context.Context, h *hostd.Host) error) (alive bool, err error) {
	m.mu.Lock()
	h, life := m.host, m.life
	if h == nil {
		m.mu.Unlock()
		return false, net.ErrClosed
	}
	m.calls.Add(1)
	m.mu.Unlock()
	defer m.calls.Done()
	err = do(life, h)
	return life.Err() == nil, err
}

// start starts the daemon; join and token are for the first time. An error is the daemon's, unless the machine failed.
func (m *machine) start(join, token string) error {
	m.lives++
	var err error
	m.fault, err = disktest.NewFault(m.files, fmt.Sprint("/attic", m.lives), m.w.o.Seed+uint64(m.lives))
	if err != nil {
		return err
	}
	if err := m.files.MkdirAll(outDir, 0o700); err != nil {
		return err
	}
	if err := m.plantKey(); err != nil {
		return err
	}
	m.fault.OnOp(m.trap.set())
	m.room.mu.Lock()
	m.room.was = m.room.full
	m.room.mu.Unlock()
	span := m.w.fleet.claims.begin(m)
	plug := m.w.fabric.Plug(m.name)
	m.plug = plug
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	host, err := hostd.New(ctx, hostd.Config{
		Data: dataDir, Listen: m.addr(), Advertise: m.addr(), Name: m.name,
		HostTimeout: hostTimeout, Join: join, Token: token, Quota: m.w.quota, High: m.w.high, Low: m.w.low,
		Guests: hostd.GuestsConfig{VSock: "off", Hybrid: []string{guestSocket(m, "{uuid}")}, ShmDir: m.w.o.Pool.dir},
	}, hostd.Options{
		Now: m.now, ClusterVersion: m.can, Snapshots: m.w.snapshots,
		Logger: m.w.o.Logger.Named(m.name), Network: m.plug, Domains: m.vms,
		FS:          disktest.Ghost{FS: m.fault, Vote: "/raft/vote", Silence: func() { plug.Unplug(true) }},
		ListenLocal: func() (net.Listener, error) { return nil, nil },
	})
	if err != nil {
		m.plug.Unplug(false)
		return err
	}
	m.w.fleet.claims.serve(span, host.ID())
	running, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	m.stop, m.done = stop, done
	go func() {
		err := host.Run(running)
		m.w.fleet.claims.end(span)
		if running.Err() == nil {
			m.fell(err)
		}
		done <- err
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.host, m.id, m.fallen = host, host.ID(), false
	m.life, m.die = context.WithCancel(context.Background())
	m.calls.Add(1)
	go m.w.fleet.watch(m, host, m.life)
	return nil
}

// plantKey leaves a key as an earlier attempt to join would have, so that a host's id is made of the seed.
func (m *machine) plantKey() error {
	path := filepath.Join(dataDir, "pki/host.key")
	if _, err := m.files.Lstat(path); err == nil {
		return nil
	}
	if err := m.files.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	seed := make([]byte, ed25519.SeedSize)
	binary.LittleEndian.PutUint64(seed, m.w.o.Seed)
	binary.LittleEndian.PutUint64(seed[8:], uint64(m.n))
	binary.LittleEndian.PutUint64(seed[16:], uint64(m.disks))
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return err
	}
	return disk.WriteFile(m.files, path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// fell notes that the daemon ended by itself: it may if its disk failed it, or if it has left the cluster. A full disk,
// or a snapshot in place of another history, may make it give up, to be started again.
func (m *machine) fell(err error) {
	switch {
	case err == nil || m.fault.Killed():
	case m.wasFull(), m.shunned.Load() && errors.Is(err, raft.ErrRemoved), errors.Is(err, raft.ErrOvertaken):
		m.w.did("%s gives up: %v", m.name, err)
		if errors.Is(err, raft.ErrOvertaken) {
			m.w.count("a snapshot replaced another history")
		}
		m.plug.Unplug(false)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.host = nil
		m.fallen = true
		m.die()
	default:
		m.w.violation("host %s gave up: %v", m.name, err)
	}
}

// leave takes the daemon away from callers, and waits until the last call has noticed.
func (m *machine) leave() {
	m.mu.Lock()
	m.host = nil
	m.die()
	m.mu.Unlock()
	m.calls.Wait()
}

// shutDown ends the daemon in good order.
func (m *machine) shutDown() {
	if !m.running() {
		return
	}
	m.leave()
	m.stop()
	if err := <-m.done; err != nil && !m.fault.Killed() && !m.wasFull() {
		m.w.violation("host %s ended with %v", m.name, err)
	}
	m.plug.Unplug(false)
}

// kill ends the daemon at once. What it wrote is still in the page cache.
func (m *machine) kill() {
	if !m.running() {
		return
	}
	m.plug.Unplug(false)
	m.fault.Kill()
	m.bury()
}

// strike is the beginning of powerOff, for those who cannot wait for the rest.
func (m *machine) strike() {
	m.plug.Unplug(true)
	m.fault.Kill()
}

// powerOff ends the daemon at once and without a word; what was not synced may be lost.
func (m *machine) powerOff() {
	if !m.running() {
		return
	}
	m.strike()
	if err := m.fault.PowerOff(); err != nil {
		m.w.violation("the simulation: power off %s: %v", m.name, err)
	}
	m.w.fleet.powerOff(m)
	m.bury()
}

// bury waits for the goroutines of a dead daemon, which cannot do anything any more.
func (m *machine) bury() {
	m.leave()
	m.stop()
	<-m.done
	m.checkOut()
}

// checkOut looks at what interrupted pulls left at their destinations: nothing, or all.
func (m *machine) checkOut() {
	m.mu.Lock()
	out := m.out
	m.out = nil
	m.mu.Unlock()
	for _, dest := range out {
		if p, err := disk.ReadFile(m.files, dest, maxSize); err == nil {
			if _, whole := m.w.o.Pool.id(p); !whole {
				m.w.violation("host %s shows a part of a file as %s: %d bytes", m.name, filepath.Base(dest), len(p))
			}
		}
		m.files.Remove(dest)
	}
}

// restart starts the daemon again.
func (m *machine) restart() {
	if m.running() {
		return
	}
	err := m.start("", "")
	if err != nil && !m.fault.Killed() && !m.wasFull() {
		m.w.violation("host %s cannot start again: %v", m.name, err)
	}
}

// startsAgain starts daemons that gave up, as systemd does, until over is closed.
func (w *world) startsAgain(over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(time.Second):
		}
		for _, m := range w.machines {
			if !m.busy.TryLock() { // whoever has it in hand starts it
				continue
			}
			m.mu.Lock()
			fallen := m.fallen
			m.mu.Unlock()
			if fallen {
				w.did("%s is started again", m.name)
				m.restart()
			}
			m.busy.Unlock()
		}
	}
}

// leads says whether the daemon believes to lead.
func (m *machine) leads() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.host != nil && m.host.Raft().Role == "leader"
}

// token asks the daemon for a join token.
func (m *machine) token() (string, error) {
	var token string
	_, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		r, err := h.API().CreateToken(ctx, &v1.CreateTokenRequest{})
		token = r.GetToken()
		return err
	})
	return token, err
}
