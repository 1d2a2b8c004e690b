package hostd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const webGuest = "11111111-1111-4111-8111-111111111111"

// publishAt publishes bytes on the first host, which all guests may read, so that the other does not become a home.
func (c *crowd) publishAt(name string) (id content.Digest) {
	c.t.Helper()
	replicas, guests := uint32(1), "all"
	for n := range byte(20) {
		p := make([]byte, 8<<20)
		rand.NewChaCha8([32]byte{n, byte(len(name))}).Read(p)
		path := filepath.Join(c.t.TempDir(), "source")
		if err := os.WriteFile(path, p, 0o600); err != nil {
			c.t.Fatal(err)
		}
		err := c.hosts[0].control.Publish(c.ctx(), &v1.PublishRequest{Name: name, Path: path, Replicas: &replicas, Guests: guests, ChunkSize: content.MinChunkSize}, func(p *v1.PublishProgress) error {
			if p.GetPhase() == v1.PublishPhase_PUBLISH_PHASE_DONE {
				id, _ = content.ParseDigest(p.GetResult().GetId())
			}
			return nil
		})
		if err != nil {
			c.t.Fatal(err)
		}
		if slices.Contains(c.homesOf(id), c.hosts[0].self) {
			c.eventually("all know it", func() (known bool) {
				c.hosts[1].node.View(func(s *placement.State) { _, known = s.Content(id) })
				return known
			})
			return id
		}
	}
	c.t.Fatal("the first host is never its home")
	return id
}

// underWay waits until 'status' at a host shows that a file is being fetched, and 'distribute --watch' elsewhere would.
func (c *crowd) underWay(h *crowdHost, name string, id content.Digest) {
	c.t.Helper()
	c.eventually(name+" is seen while it comes", func() bool {
		s, err := h.control.Status(c.ctx(), &v1.StatusRequest{})
		if err != nil {
			c.t.Fatal(err)
		}
		i := slices.IndexFunc(s.GetFetches(), func(f *v1.ActiveFetch) bool { return f.GetName() == name })
		if i < 0 {
			return false
		}
		p, err := h.control.Progress(c.ctx(), &v1.ProgressRequest{Id: id.String()})
		f := s.GetFetches()[i]
		return err == nil && p.GetFetching() && p.GetRate() > 0 && f.GetTotal() == 8<<20 && f.GetDone() > 0 && f.GetDone() < f.GetTotal() &&
			f.GetRate() > 0 && f.GetSources() == 1
	})
}

// idle says whether a host fetches nothing.
func (c *crowd) idle(h *crowdHost) bool {
	s, err := h.control.Status(c.ctx(), &v1.StatusRequest{})
	return err == nil && len(s.GetFetches()) == 0
}

// TestFetchesAreSeen: what a guest pulls and what a start waits for is seen while it comes, like an operator's pull.
func TestFetchesAreSeen(t *testing.T) {
	// The multiplexer of guest links keeps timers in a pool: none of it may come from the time of another test. Two
	// collections empty it.
	empty := func() { runtime.GC(); runtime.GC() }
	empty()
	defer empty()
	inCrowd(t, 2, func(t *testing.T, c *crowd) {
		h := c.hosts[1]
		h.stop()
		h.seen = sightings{{UUID: webGuest, Name: "web", State: placement.DomainRunning, Manager: placement.ManagedByLibvirt}}
		h.cfg.Guests = GuestsConfig{Hybrid: []string{"/run/{uuid}"}, ShmDir: t.TempDir(), VSock: guestsOff}
		c.start(h)
		c.eventually("both are there", func() bool { return c.stateOf(h) == placement.Alive && len(c.members(h)) == 2 })
		c.hosts[0].swarm.SetLimits(1<<20, 0)

		id := c.publishAt("by-hook")
		need := fmt.Sprintf("<domain><name>d</name><uuid>%s</uuid><metadata><v:domain xmlns:v='urn:virtswarm:domain:1'>"+
			"<v:file name='by-hook' path='/images/d.raw'/></v:domain></metadata></domain>", webGuest)
		prepared := make(chan error, 1)
		go func() {
			prepared <- h.control.Prepare(c.ctx(), &v1.PrepareRequest{Domain: "d", Operation: "prepare", Xml: []byte(need)}, func(*v1.PrepareProgress) error { return nil })
		}()
		c.underWay(h, "by-hook", id)
		if err := <-prepared; err != nil || !c.idle(h) {
			t.Errorf("prepared: %v; idle: %v", err, c.idle(h))
		}
		if fi, err := h.disk.Stat("/images/d.raw"); err != nil || fi.Size() != 8<<20 {
			t.Errorf("at its path: %v", err)
		}

		ctx, stop := context.WithCancel(context.Background())
		served := make(chan struct{})
		go func() { defer close(served); h.guests.Run(ctx) }()
		defer func() { stop(); <-served }()
		id = c.publishAt("by-guest")
		guest := c.guestReads(h, "by-guest")
		c.underWay(h, "by-guest", id)
		guest.Close()
		c.eventually("nobody wants it any more", func() bool { return c.idle(h) })
		if f, ok := h.store.Get(id); !ok || f.Complete() {
			t.Error("it came although its guest has gone")
		}
	})
}

// TestStartIsCancelled: a start that waits is shown on every host and ended from any; a prefetch has the next one find all.
func TestStartIsCancelled(t *testing.T) {
	inCrowd(t, 2, func(t *testing.T, c *crowd) {
		first, h := c.hosts[0], c.hosts[1]
		h.stop()
		need := placement.Need{Name: "image", Path: "/images/d.raw"}
		h.seen = sightings{{UUID: webGuest, Name: "web", State: placement.DomainOff, Manager: placement.ManagedByLibvirt, Needs: []placement.Need{need}}}
		c.start(h)
		awaits := func(file string) func() bool {
			return func() bool {
				r, err := first.control.Guests(c.ctx(), &v1.GuestsRequest{})
				return err == nil && len(r.GetGuests()) == 1 && r.GetGuests()[0].GetAwaits() == file
			}
		}
		c.eventually("the domain is known", awaits(""))
		cancel := func(host string) error {
			r, err := first.control.CancelStart(c.ctx(), &v1.CancelStartRequest{Guest: "web", Host: host})
			if err == nil && r.GetHost() != "hv2" {
				t.Errorf("it waited on %q", r.GetHost())
			}
			return err
		}
		if err := cancel(""); api.ReasonOf(err) != reason.NoSuchGuest {
			t.Errorf("cancel a start that does not wait: %v", err)
		}

		first.swarm.SetLimits(1<<20, 0)
		c.publishAt("image")
		xml := fmt.Sprintf("<domain><name>web</name><uuid>%s</uuid><metadata><v:domain xmlns:v='urn:virtswarm:domain:1'>"+
			"<v:file name='image' path='/images/d.raw'/></v:domain></metadata></domain>", webGuest)
		for _, host := range []string{"", "hv2"} {
			ended := make(chan error, 1)
			go func() {
				req := &v1.PrepareRequest{Domain: "web", Operation: "prepare", Xml: []byte(xml)}
				ended <- h.control.Prepare(c.ctx(), req, func(*v1.PrepareProgress) error { return nil })
			}()
			c.eventually("it is shown to wait", awaits("image"))
			if err := cancel(host); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; api.ReasonOf(err) != reason.Interrupted || !errors.Is(err, control.ErrCancelled) {
				t.Errorf("the start ends with %v", err)
			}
			c.eventually("it waits no more", awaits(""))
			if _, err := h.disk.Stat("/images/d.raw"); err == nil {
				t.Error("the file is at its path all the same")
			}
		}

		first.swarm.SetLimits(0, 0)
		for _, to := range []*crowdHost{h, first} {
			var last *v1.PrepareProgress
			req := &v1.PrefetchRequest{Guest: "web"}
			if to != h {
				req.Host = to.cfg.Name
			}
			if err := first.control.Prefetch(c.ctx(), req, func(p *v1.PrepareProgress) error { last = p; return nil }); err != nil || !last.GetDone() {
				t.Errorf("prefetch: %v, %v", last, err)
			}
			if fi, err := to.disk.Stat("/images/d.raw"); err != nil || fi.Size() != 8<<20 {
				t.Errorf("at its path on %s: %v", to.cfg.Name, err)
			}
		}
	})
}

// guestReads has a guest of a host open a file and read its first chunk.
func (c *crowd) guestReads(h *crowdHost, name string) *guestlink.Session {
	c.t.Helper()
	var session *guestlink.Session
	c.eventually("its guest has a link", func() bool {
		link, err := h.plug.Dial(c.ctx(), fmt.Sprintf("hybrid:///run/%s:%d", webGuest, guestlink.Port))
		if err != nil {
			return false
		}
		if _, err = guestlink.Greet(link, "test"); err == nil {
			session, err = guestlink.NewSession(link, guestlink.Config{Guest: true})
		}
		if err != nil {
			c.t.Fatal(err)
		}
		return true
	})
	c.t.Cleanup(func() { session.Close() })
	stream, err := session.Open(c.ctx(), guestlink.ForPull)
	if err != nil {
		c.t.Fatal(err)
	}
	conn := guestlink.NewConn(stream)
	ask := func(kind guestlink.Kind, id uint32, req any, last guestlink.Kind) {
		c.t.Helper()
		if err := conn.SendMessage(kind, id, req); err != nil {
			c.t.Fatal(err)
		}
		for {
			f, err := conn.Receive()
			if err != nil || f.Kind == guestlink.Failed {
				c.t.Fatalf("%v, %s", err, f.Payload)
			}
			if f.Kind == last {
				return
			}
		}
	}
	ask(guestlink.Open, 2, guestlink.OpenRequest{Name: name}, guestlink.End)
	ask(guestlink.Read, 3, guestlink.ReadRequest{First: 0, Count: 1}, guestlink.End)
	return session
}
