package simtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	callTimeout  = 20 * time.Second // of one try
	leaveTimeout = 30 * time.Second
	// healTimeout is how long a cluster may take, once nothing is wrong with it, until all copies are there again: an
	// election, the grace of connections that hang, and the longest pause of whoever tries again.
	healTimeout = 5 * time.Minute
)

// found makes the cluster.
func (w *world) found() bool {
	for i, m := range w.machines {
		if i > 0 {
			w.join(m)
		} else if err := m.start("", ""); err != nil {
			w.violation("host %s cannot found a cluster: %v", m.name, err)
		}
		if !m.running() {
			w.violation("host %s never joined", m.name)
			return false
		}
	}
	w.enfranchise()
	return true
}

// voters is the least number of voters that a running host knows of.
func (w *world) voters() int {
	least := len(w.machines)
	for _, m := range w.up() {
		m.mu.Lock()
		if m.host != nil {
			least = min(least, len(m.host.Raft().Voters))
		}
		m.mu.Unlock()
	}
	return least
}

// enfranchise waits until at least three hosts vote.
func (w *world) enfranchise() {
	for begin := time.Now(); time.Since(begin) < healTimeout; time.Sleep(500 * time.Millisecond) {
		if w.voters() >= 3 {
			return
		}
	}
	w.violation("there are never three voters")
	w.tellRaft()
}

// join has a machine without a past join by way of one that runs, and tries again until it is a member.
func (w *world) join(m *machine) {
	var err error
	for begin := time.Now(); time.Since(begin) < healTimeout; time.Sleep(time.Second) {
		for _, via := range w.up() {
			var token string
			if token, err = via.token(); err != nil {
				continue
			}
			if err = m.start(via.addr(), token); err == nil {
				w.did("%s joins by %s", m.name, via.name)
				return
			}
			switch api.AsError(err).Reason {
			case reason.HostNameTaken: // an earlier try of its own has come through
				w.remove(m)
			case reason.TooOld: // all others were upgraded meanwhile
				w.did("%s is upgraded", m.name)
				m.can = placement.Newest
			}
		}
	}
	w.violation("host %s cannot join: %v", m.name, err)
}

// remove takes a machine that is gone out of the cluster, by whoever runs.
func (w *world) remove(m *machine) bool {
	w.fleet.claims.leave(m)
	var err error
	for begin := time.Now(); time.Since(begin) < healTimeout; time.Sleep(time.Second) {
		for _, via := range w.up() {
			if via == m {
				continue
			}
			_, err = via.call(func(ctx context.Context, h *hostd.Host) error {
				ctx, cancel := context.WithTimeout(ctx, callTimeout)
				defer cancel()
				return h.API().Leave(ctx, &v1.LeaveRequest{Host: m.name, Force: true}, func(*v1.LeaveProgress) error { return nil })
			})
			if err == nil || api.AsError(err).Reason == reason.NoSuchHost {
				w.did("%s is removed by %s", m.name, via.name)
				return true
			}
		}
	}
	w.violation("host %s cannot be removed: %v", m.name, err)
	w.tellRaft()
	return false
}

// resign has a daemon leave the cluster in good order, and says whether it did.
func (m *machine) resign() bool {
	m.w.fleet.claims.leave(m)
	_, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
		defer cancel()
		return h.API().Leave(ctx, &v1.LeaveRequest{}, func(*v1.LeaveProgress) error { return nil })
	})
	if err != nil {
		return false
	}
	m.leave()
	if err := <-m.done; err != nil {
		m.w.violation("host %s left with %v", m.name, err)
	}
	m.plug.Unplug(false)
	return true
}

// out gets a machine out of the cluster that has tried to leave, and is not told whether it has.
func (w *world) out(m *machine) bool {
	for begin := time.Now(); time.Since(begin) < healTimeout; time.Sleep(time.Second) {
		if !m.running() {
			m.restart()
		}
		left := m.resign()
		if !left && w.gone(m) {
			m.shutDown()
			left = true
		}
		if left {
			m.discard()
			return true
		}
	}
	w.violation("host %s can neither stay nor leave", m.name)
	return false
}

// gone says whether a host is not in the catalogue, as another one can say for certain.
func (w *world) gone(m *machine) (gone bool) {
	m.mu.Lock()
	host := m.host
	m.mu.Unlock()
	for _, other := range w.up() {
		if other == m || host == nil {
			continue
		}
		other.call(func(ctx context.Context, h *hostd.Host) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			r, err := h.API().Hosts(ctx, &v1.HostsRequest{})
			if err != nil || r.GetStaleness().GetStale() {
				return err
			}
			gone = !slices.ContainsFunc(r.GetHosts(), func(h *v1.Host) bool { return h.GetId() == string(host.ID()) })
			return nil
		})
	}
	return gone
}

// discard gives the machine a new disk, and with it a new identity.
func (m *machine) discard() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = disktest.NewMemory(0)
	m.disks++
}

// flip changes bytes of stored chunks where no program sees it.
func (m *machine) flip(n int) string {
	stored := filepath.Join(dataDir, "store/files")
	files, err := m.files.ReadDir(stored)
	if err != nil || len(files) == 0 {
		return "nothing is stored"
	}
	name := files[n%len(files)].Name()
	f, err := m.files.OpenFile(filepath.Join(stored, name, "data"), os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return "nothing is in it"
	}
	at := int64(n) % st.Size()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err.Error()
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b, at); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%.8s at %d", name, at)
}

// end shuts everything down.
func (w *world) end() {
	for _, m := range w.machines {
		m.shutDown()
	}
	if left := strays(); left != "" {
		w.violation("goroutines are left running:\n%s", left)
	}
}
