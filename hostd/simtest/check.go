package simtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// checker is the client of those who look after the cluster.
const checker = clientCount

// heal starts what is down and waits until every host has its copies, and all have the same catalogue.
func (w *world) heal() bool {
	for _, m := range w.machines {
		m.upgrade()
		m.restart()
	}
	w.did("healed")
	var last string
	for begin := time.Now(); time.Since(begin) < healTimeout; time.Sleep(500 * time.Millisecond) {
		for _, m := range w.machines {
			m.restart() // who has given up meanwhile, as systemd does
		}
		if last = w.unsettled(); last == "" {
			w.did("settled")
			return true
		}
	}
	w.violation("not settled %s after the last fault: %s", healTimeout, last)
	w.tellRaft()
	if f := os.Getenv("SIMSTACKS"); f != "" {
		os.WriteFile(fmt.Sprint(f, w.o.Seed), []byte(strays()), 0o644)
	}
	return false
}

// tellRaft notes how each host sees the replication.
func (w *world) tellRaft() {
	for _, m := range w.machines {
		m.call(func(_ context.Context, h *hostd.Host) error {
			w.did("%s is %s: %+v", m.name, h.ID(), h.Raft())
			return nil
		})
	}
}

// unsettled says what is not yet as it must be, "" if all is.
func (w *world) unsettled() string {
	var first []byte
	for _, m := range w.machines {
		var text string
		var picture bytes.Buffer
		alive, err := m.call(func(ctx context.Context, h *hostd.Host) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			r, err := h.API().Hosts(ctx, &v1.HostsRequest{})
			if err != nil {
				return err
			}
			if r.GetStaleness().GetStale() {
				return errStale
			}
			h.Catalogue(func(s *placement.State) {
				if text = w.lacking(s); text == "" {
					text = w.fleet.misplaced(s)
				}
				_, err = s.Freeze().WriteTo(&picture)
			})
			return err
		})
		switch {
		case !alive:
			return fmt.Sprintf("host %s does not run", m.name)
		case err != nil:
			return fmt.Sprintf("host %s: %v", m.name, err)
		case text != "":
			return fmt.Sprintf("host %s sees %s", m.name, text)
		case first == nil:
			first = picture.Bytes()
		case !bytes.Equal(first, picture.Bytes()):
			return fmt.Sprintf("host %s has another catalogue than host %s", m.name, w.machines[0].name)
		}
	}
	return ""
}

// lacking says which copies are missing, or hosts.
func (w *world) lacking(s *placement.State) string {
	if s.Version() != placement.Newest {
		return fmt.Sprintf("cluster version %d, and all can %d", s.Version(), placement.Newest)
	}
	hosts := s.Hosts()
	if len(hosts) != len(w.machines) {
		return fmt.Sprintf("%d hosts, not %d", len(hosts), len(w.machines))
	}
	for _, h := range hosts {
		if h.State != placement.Alive {
			return fmt.Sprintf("host %s is %s", h.Name, h.State)
		}
	}
	for _, id := range s.ChangedSince(0).Contents {
		r, _ := s.Replication(id)
		if r.Lost > 0 && w.mayBeLost(id) {
			continue
		}
		if !r.OK() || r.TargetsFull < r.Targets {
			return fmt.Sprintf("%s with %d copies of %d, %d targets of %d", id.Short(), r.MinCopies, r.Wanted, r.TargetsFull, r.Targets)
		}
	}
	return ""
}

// mayBeLost says whether nobody was promised more copies of a content than could be destroyed.
func (w *world) mayBeLost(id content.Digest) bool {
	few := w.promised(id.String()) < 2
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.excused[id] || few && len(w.flaws) > 0
}

// check looks at everything once the cluster has settled.
func (w *world) check() {
	for _, m := range w.machines {
		if !w.list(checker, m) {
			w.violation("host %s gives no list to rely on, though all is well", m.name)
		}
	}
	for _, m := range w.machines {
		w.verify(m) // first, as pulls heal what they find damaged
	}
	for _, m := range w.machines {
		w.checkVersions(m)
	}
	w.readOrders()
	w.checkGhosts()
}

// checkVersions pulls every version of every name.
func (w *world) checkVersions(m *machine) {
	var versions []*v1.File
	w.must(m, "show", func(ctx context.Context, h *hostd.Host) error {
		list, err := h.API().List(ctx, &v1.ListRequest{})
		if err != nil {
			return err
		}
		for _, f := range list.GetFiles() {
			r, err := h.API().Show(ctx, &v1.ShowRequest{Name: f.GetName()})
			if err != nil {
				return err
			}
			versions = append(versions, r.GetVersions()...)
		}
		return nil
	})
	seen := map[string]bool{}
	for i, f := range versions {
		if key := f.GetName() + f.GetId(); seen[key] {
			w.violation("%s has version %.12s twice, which was published once", f.GetName(), f.GetId())
		} else {
			seen[key] = true
		}
		err := w.pull(checker, m, f.GetName(), f.GetId(), filepath.Join(outDir, fmt.Sprint("check", i)))
		id, parse := content.ParseDigest(f.GetId())
		if err != nil && (parse != nil || !w.mayBeLost(id)) {
			w.violation("host %s cannot get %s %.12s, of which %d copies were promised: %v",
				m.name, f.GetName(), f.GetId(), w.promised(f.GetId()), err)
		}
	}
}

// verify has a host hash what it holds: it must not count as held what is not there, unless its disk was flawed.
func (w *world) verify(m *machine) {
	var bad uint64
	w.must(m, "verify", func(ctx context.Context, h *hostd.Host) error {
		return h.API().Verify(ctx, &v1.VerifyRequest{}, func(p *v1.CheckProgress) error {
			bad = p.GetBadChunks()
			return nil
		})
	})
	if bad > 0 && !w.isFlawed(m.name) {
		w.violation("host %s holds %d chunks that are damaged, and its disk is sound", m.name, bad)
	}
}

// must does what cannot fail when all is well.
func (w *world) must(m *machine, what string, do func(ctx context.Context, h *hostd.Host) error) {
	_, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return do(ctx, h)
	})
	if err != nil {
		w.violation("host %s: %s: %v", m.name, what, err)
	}
}

// strays returns the stacks of goroutines of this bubble beside the caller's.
func strays() string {
	synctest.Wait()
	buf := make([]byte, 64<<10)
	own := string(buf[:runtime.Stack(buf, false)])
	head, _, _ := strings.Cut(own, "\n")
	_, bubble, ok := strings.Cut(strings.TrimSuffix(head, "]:"), "synctest bubble ")
	if !ok {
		return "not in a bubble"
	}
	all := make([]byte, 16<<20)
	var left []string
	for i, stack := range strings.Split(string(all[:runtime.Stack(all, true)]), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if i > 0 && strings.Contains(head, "synctest bubble "+bubble+"]") && !strings.Contains(stack, "testing/synctest.Test(") && !strings.Contains(stack, "testingSynctestTest(") {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}
