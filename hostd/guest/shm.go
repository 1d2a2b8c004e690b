package guest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/shmring"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// shmPrefix is what the names of files of shared memory begin with; the UUID of the domain follows.
	shmPrefix = "virtswarm-"
	// shmRetry is the time between attempts to serve, or plug in, what could not be.
	shmRetry = 10 * time.Second
	// shmStale is how long the file of a domain that is not here is left alone: one that arrives has its file made
	// before it is seen.
	shmStale = 30 * time.Second
	// plugPatience bounds an attempt to plug in what a domain's metadata asks for.
	plugPatience = time.Minute
)

// shm is the shared memory of the domains that are here. Who has some is said by libvirt, or QEMU: it is plugged in
// with the domain, and travels with it. The file is only what both sides map.
type shm struct {
	server *Server

	mu      sync.Mutex
	ctx     context.Context      // of Run, nil before and after it
	regions map[string]*region   // by UUID
	busy    map[string]bool      // Attach or Detach is at work for this UUID
	later   map[string]time.Time // not to be tried before
	absent  map[string]time.Time // since when the domain of a file is not here
	doubted map[string]bool      // by UUID: whose memory another VM has too
	scanned time.Time            // when it was looked last who has which memory
	known   map[string]bool      // the domains that were here then
	work    sync.WaitGroup
}

// region is one that is served.
type region struct {
	listener *shmring.Listener
	seen     bool // the domain was seen with it
	done     chan struct{}
}

func newShm(s *Server) *shm {
	return &shm{
		server: s, regions: map[string]*region{}, busy: map[string]bool{}, later: map[string]time.Time{}, absent: map[string]time.Time{},
		doubted: map[string]bool{},
	}
}

func (m *shm) path(uuid string) string { return filepath.Join(m.server.cfg.ShmDir, shmPrefix+uuid) }

// update serves the memory of the domains that have some, and plugs in what their metadata asks for. The channel says
// when to look again though nothing has changed; nil: need not be.
func (m *shm) update(ctx context.Context, list []placement.Domain, all bool) (again <-chan time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctx = ctx
	here := map[string]bool{}
	for _, d := range list {
		if !d.State.Active() {
			continue
		}
		here[d.UUID] = true
	}
	m.doubt(list, here)
	for _, d := range list {
		if here[d.UUID] && m.doubted[d.UUID] {
			again = time.After(shmRetry)
			continue
		}
		if here[d.UUID] && !m.busy[d.UUID] && !m.keep(d) {
			again = time.After(shmRetry)
		}
	}
	for uuid, r := range m.regions {
		if (!here[uuid] || m.doubted[uuid]) && !m.busy[uuid] {
			m.end(uuid, r)
		}
	}
	if len(m.regions) > 0 && again == nil {
		again = time.After(shmStale) // a VM that nobody tells of may take the memory of another
	}
	for uuid := range m.later {
		if !here[uuid] {
			delete(m.later, uuid)
		}
	}
	if all && m.sweep(here) && again == nil { // else the file may be in use by one that is not seen yet
		again = time.After(shmStale)
	}
	return again
}

// doubt looks whose memory is that of another VM too: after domains came or went, and now and then. The caller holds mu.
func (m *shm) doubt(list []placement.Domain, here map[string]bool) {
	if time.Since(m.scanned) < shmRetry && maps.Equal(m.known, here) && len(m.doubted) == 0 {
		return
	}
	m.scanned, m.known = time.Now(), here
	var paths []string
	for uuid := range here {
		paths = append(paths, m.path(uuid))
	}
	users, err := usersOf(paths)
	if err != nil {
		m.server.log.Warn("cannot look which processes have shared memory of guests", "error", err)
		return
	}
	before := m.doubted
	m.doubted = map[string]bool{}
	for _, d := range list {
		if !here[d.UUID] || !contested(d.UUID, users[m.path(d.UUID)]) {
			continue
		}
		m.doubted[d.UUID] = true
		if !before[d.UUID] {
			m.server.log.Warn("another VM has the shared memory of a domain too: neither is served by it", "domain", d.Name, "uuid", d.UUID,
				"processes", users[m.path(d.UUID)])
		}
	}
}

// keep brings what is served of a domain in line with what it has; false: try again.
func (m *shm) keep(d placement.Domain) bool {
	r := m.regions[d.UUID]
	switch {
	case d.Shm > 0 && r != nil:
		r.seen = true
	case d.Shm > 0 && d.Migration != placement.MigratingIn && d.State != placement.DomainMigrating:
		if err := m.serve(d); err != nil {
			return m.complain(d, "cannot serve the shared memory of a domain", err)
		}
		m.regions[d.UUID].seen = true
	case d.Shm == 0 && r != nil && r.seen:
		m.end(d.UUID, r)
	case d.Shm == 0 && r == nil && d.WantShm > 0 && d.State == placement.DomainRunning && d.Migration == "":
		if time.Now().Before(m.later[d.UUID]) {
			return false
		}
		m.later[d.UUID] = time.Now().Add(shmRetry)
		m.work.Go(func() {
			ctx, cancel := context.WithTimeout(m.context(), plugPatience)
			defer cancel()
			if err := m.attach(ctx, d, d.WantShm); err != nil && ctx.Err() == nil {
				m.server.log.Warn("cannot plug in the shared memory that a domain asks for", "domain", d.Name, "uuid", d.UUID, "error", err)
			}
		})
		return false
	}
	return true
}

func (m *shm) context() context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return ctx
	}
	return m.ctx
}

// complain logs what fails, not more often than it is tried.
func (m *shm) complain(d placement.Domain, what string, err error) bool {
	if now := time.Now(); now.After(m.later[d.UUID]) {
		m.later[d.UUID] = now.Add(shmRetry)
		m.server.log.Warn(what, "domain", d.Name, "uuid", d.UUID, "error", err)
	}
	return false
}

// serve takes links by a domain's memory. The caller holds mu.
func (m *shm) serve(d placement.Domain) error {
	path := m.path(d.UUID)
	// The file is QEMU's where a domain arrived with its memory, and then everybody may read it.
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrNotServed, err)
	}
	ln, err := shmring.Listen(path, shmring.Options{
		UUID: uuidBytes(d.UUID), Logger: m.server.log, Ring: func() { m.server.ring(d.UUID) }, Spin: shmring.NoSpin,
		Paused: func() bool { return m.server.paused(caller{kind: kindShm, uuid: d.UUID}) },
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotServed, err)
	}
	r := &region{listener: ln, done: make(chan struct{})}
	m.regions[d.UUID] = r
	ctx := m.ctx
	m.work.Go(func() {
		defer close(r.done)
		m.server.accept(ctx, ln, func(net.Conn) (caller, bool) { return caller{kind: kindShm, uuid: d.UUID}, true })
	})
	m.server.log.Info("takes guest links by shared memory", "domain", d.Name, "uuid", d.UUID, "size", d.Shm)
	return nil
}

// end stops serving a region: the guest's connections end. The caller holds mu.
func (m *shm) end(uuid string, r *region) {
	delete(m.regions, uuid)
	r.listener.Close()
}

// sweep removes the files of domains that have not been here for a while, and which no process has in use; neither
// libvirt nor QEMU does. It reports whether there are some that will have to be looked at again. The caller holds mu.
func (m *shm) sweep(here map[string]bool) (more bool) {
	paths, err := filepath.Glob(m.path("*"))
	if err != nil {
		return false
	}
	absent := map[string]time.Time{}
	for _, path := range paths {
		uuid := strings.TrimPrefix(filepath.Base(path), shmPrefix)
		if !placement.ValidUUID(uuid) || here[uuid] || m.busy[uuid] {
			continue
		}
		since, known := m.absent[uuid]
		if !known {
			since = time.Now()
		}
		if time.Since(since) >= shmStale {
			if pid, err := usedBy(path); err == nil && pid == 0 && os.Remove(path) == nil {
				continue
			}
		}
		absent[uuid] = since
	}
	m.absent = absent
	return len(absent) > 0
}

func (m *shm) close() {
	m.mu.Lock()
	m.ctx = nil
	for uuid, r := range m.regions {
		m.end(uuid, r)
	}
	m.mu.Unlock()
	m.work.Wait()
}

// take makes the caller the one who changes a domain's memory.
func (m *shm) take(uuid string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[uuid] || m.ctx == nil {
		return errors.New("its shared memory is being changed already; try again")
	}
	m.busy[uuid] = true
	return nil
}

func (m *shm) release(uuid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.busy, uuid)
}

// Attach plugs shared memory of size bytes into a domain that runs here, and takes links by it. A domain that has
// exactly that memory keeps it. Errors: ErrBadSize, ErrNotRunning, ErrAttached, ErrNotServed and those of the Plugger.
func (s *Server) Attach(ctx context.Context, d placement.Domain, size int64) error {
	if size < shmring.MinSize || size > shmring.MaxSize || size&(size-1) != 0 {
		return fmt.Errorf("attach %d bytes of shared memory to domain %s: %w", size, d.Name, ErrBadSize)
	}
	if err := s.shm.attach(ctx, d, size); err != nil {
		return fmt.Errorf("attach shared memory to domain %s: %w", d.Name, err)
	}
	return nil
}

func (m *shm) attach(ctx context.Context, d placement.Domain, size int64) error {
	switch here, err := m.local(d.UUID); {
	case err != nil:
		return err
	case here.Shm == size:
		if _, err := os.Stat(m.path(d.UUID)); err != nil {
			return fmt.Errorf("it has memory of %d bytes, but its file is gone: %w", size, errors.Join(ErrNotServed, err))
		}
		return nil
	case here.Shm > 0:
		return fmt.Errorf("%d bytes: %w", here.Shm, ErrAttached)
	}
	if err := m.take(d.UUID); err != nil {
		return err
	}
	defer m.release(d.UUID)
	plugger, err := m.server.cfg.Plugger(d)
	if err != nil {
		return err
	}
	uid, gid, err := plugger.Owner(ctx, d.UUID)
	if err != nil {
		return err
	}
	path := m.path(d.UUID)
	if pid, err := usedBy(path); err == nil && pid != 0 {
		return fmt.Errorf("process %d has %s in use: %w", pid, path, ErrAttached)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an earlier life
		return err
	}
	if err := shmring.Create(path, size, uid, gid); err != nil {
		return err
	}
	if err := plugger.PlugMemory(ctx, d.UUID, path, size); err != nil {
		os.Remove(path)
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil || m.regions[d.UUID] != nil {
		return nil
	}
	d.Shm = size
	return m.serve(d)
}

// Detach ends the links by a domain's shared memory and unplugs it. If the guest does not let go of it, it is served
// again.
func (s *Server) Detach(ctx context.Context, d placement.Domain) error {
	if err := s.shm.detach(ctx, d); err != nil {
		return fmt.Errorf("detach shared memory from domain %s: %w", d.Name, err)
	}
	return nil
}

func (m *shm) detach(ctx context.Context, d placement.Domain) error {
	if _, err := m.local(d.UUID); err != nil {
		return err
	}
	if err := m.take(d.UUID); err != nil {
		return err
	}
	defer m.release(d.UUID)
	plugger, err := m.server.cfg.Plugger(d)
	if err != nil {
		return err
	}
	m.mu.Lock()
	if r := m.regions[d.UUID]; r != nil {
		m.end(d.UUID, r) // the guest's agent lets go of the device by itself
	}
	m.mu.Unlock()
	if err := plugger.UnplugMemory(ctx, d.UUID, m.path(d.UUID)); err != nil {
		return err
	}
	if err := os.Remove(m.path(d.UUID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// local returns a domain as it is seen here now.
func (m *shm) local(uuid string) (placement.Domain, error) {
	list, _ := m.server.cfg.Domains.Local()
	for _, d := range list {
		if d.UUID == uuid && d.State.Active() {
			return d, nil
		}
	}
	return placement.Domain{}, ErrNotRunning
}

// uuidBytes gives a valid UUID as the 16 bytes that it means.
func uuidBytes(uuid string) (b [16]byte) {
	_, _ = hex.Decode(b[:], []byte(strings.ReplaceAll(uuid, "-", "")))
	return b
}
