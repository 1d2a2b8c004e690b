package hostd

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// crowd is a cluster of whole hosts in a bubble.
type crowd struct {
	t      *testing.T
	fabric *linktest.Fabric
	hosts  []*crowdHost
}

type crowdHost struct {
	*Host
	cfg  Config
	disk *disktest.Memory
	seen observe.DomainSource // nil: no domains are here
	plug *linktest.Plug
	stop func()
}

// inCrowd runs a test among n hosts, hv1 and so on.
func inCrowd(t *testing.T, n int, test func(t *testing.T, c *crowd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{t: t, fabric: linktest.NewFabric()}
		defer func() {
			for _, h := range c.hosts {
				h.stop()
			}
		}()
		for i := range n {
			name := fmt.Sprintf("hv%d", i+1)
			h := &crowdHost{disk: disktest.NewMemory(1 << 30), cfg: Config{
				Data: "/data", Listen: name + ":7117", Advertise: name + ":7117", Name: name, Grace: 30 * time.Second, Libvirt: LibvirtConfig{noLibvirt},
			}}
			if i > 0 {
				token, err := c.hosts[0].control.CreateToken(c.ctx(), &v1.CreateTokenRequest{})
				if err != nil {
					t.Fatal(err)
				}
				h.cfg.Join, h.cfg.Token = "hv1:7117", token.GetToken()
			}
			c.hosts = append(c.hosts, h)
			c.start(h)
			c.eventually("the host is a member", func() bool { return len(c.members(h)) == i+1 })
		}
		for _, h := range c.hosts {
			c.eventually("every host is known everywhere", func() bool { return len(c.members(h)) == n })
		}
		test(t, c)
	})
}

// start starts a host, for the first time or again.
func (c *crowd) start(h *crowdHost) {
	c.t.Helper()
	h.plug = c.fabric.Plug(h.cfg.Name)
	ctx, cancel := context.WithCancel(context.Background())
	host, err := New(ctx, h.cfg, Options{
		Network: h.plug, FS: h.disk, Domains: h.seen, ListenLocal: func() (net.Listener, error) { return nil, nil },
	})
	if err != nil {
		cancel()
		c.t.Fatalf("start %s: %v", h.cfg.Name, err)
	}
	h.Host = host
	ended := make(chan error, 1)
	go func() { ended <- host.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("%s ended: %v", h.cfg.Name, err)
		}
		h.stop = func() {}
	}
}

func (c *crowd) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	c.t.Cleanup(cancel)
	return ctx
}

// eventually waits, in the bubble's time, until something holds.
func (c *crowd) eventually(what string, ok func() bool) {
	c.t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond) // in a bubble: until everybody waits
	}
	c.t.Fatalf("never: %s", what)
}

func (c *crowd) members(h *crowdHost) (hosts []placement.Host) {
	h.node.View(func(s *placement.State) { hosts = s.Hosts() })
	return hosts
}

func (c *crowd) stateOf(h *crowdHost) (state placement.HostState) {
	c.hosts[0].node.View(func(s *placement.State) {
		found, _ := s.Host(h.self)
		state = found.State
	})
	return state
}

// publish publishes random bytes at the first host, and waits until they are replicated.
func (c *crowd) publish(name string, size int, replicas uint32) (content.Digest, []byte) {
	c.t.Helper()
	p := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size)})
	r.Read(p)
	path := filepath.Join(c.t.TempDir(), "source")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		c.t.Fatal(err)
	}
	var id content.Digest
	err := c.hosts[0].control.Publish(c.ctx(), &v1.PublishRequest{Name: name, Path: path, Replicas: &replicas}, func(p *v1.PublishProgress) error {
		if p.GetPhase() == v1.PublishPhase_PUBLISH_PHASE_DONE {
			id, _ = content.ParseDigest(p.GetResult().GetId())
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("publish %s: %v", name, err)
	}
	return id, p
}

// home returns a home of a content, but not the first host.
func (c *crowd) home(id content.Digest) *crowdHost {
	c.t.Helper()
	var homes []placement.HostID
	c.hosts[0].node.View(func(s *placement.State) { homes = s.Homes(id, 0) })
	for _, h := range c.hosts[1:] {
		if slices.Contains(homes, h.self) {
			return h
		}
	}
	c.t.Fatal("it has no home but the first host")
	return nil
}

func (c *crowd) replication(id content.Digest) (r placement.Replication) {
	c.hosts[0].node.View(func(s *placement.State) { r, _ = s.Replication(id) })
	return r
}

func TestDrainedHostCanGo(t *testing.T) {
	inCrowd(t, 4, func(t *testing.T, c *crowd) {
		id, want := c.publish("a", 3<<20, 2)
		h := c.home(id)
		var last *v1.DrainProgress
		err := c.hosts[0].control.Drain(c.ctx(), &v1.DrainRequest{Host: h.cfg.Name, Wait: true}, func(p *v1.DrainProgress) error {
			last = p
			return nil
		})
		if err != nil || !last.GetDone() || last.GetLeftShards() != 0 {
			t.Fatalf("drain: %v, %v", last, err)
		}
		if r := c.replication(id); c.stateOf(h) != placement.Leaving || !r.OK() || r.MinCopies != 2 {
			t.Fatalf("drained, but %s and %+v", c.stateOf(h), r)
		}
		h.stop()
		for _, other := range c.hosts {
			if other == h {
				continue
			}
			dest := filepath.Join("/", other.cfg.Name)
			if err := other.control.Pull(c.ctx(), &v1.PullRequest{Name: "a", Dest: dest}, func(*v1.PullProgress) error { return nil }); err != nil {
				t.Fatalf("pull at %s: %v", other.cfg.Name, err)
			}
			if got, err := disk.ReadFile(other.disk, dest, 4<<20); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s pulled %d bytes, %v", other.cfg.Name, len(got), err)
			}
		}
		c.start(h)
		if _, err := c.hosts[0].control.Undrain(c.ctx(), &v1.UndrainRequest{Host: h.cfg.Name}); err != nil {
			t.Fatal(err)
		}
		c.eventually("it is a home again", func() bool { return c.home(id) == h || c.replication(id).OK() })
		if got := c.stateOf(h); got != placement.Alive {
			t.Fatalf("undrained, it is %s", got)
		}
	})
}

func TestDrainIsRefused(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		id, _ := c.publish("a", 1<<20, 3)
		drain := func(req *v1.DrainRequest) error {
			return c.hosts[0].control.Drain(c.ctx(), req, func(*v1.DrainProgress) error { return nil })
		}
		if err := drain(&v1.DrainRequest{}); api.ReasonOf(err) != reason.TooFewCopies {
			t.Fatalf("three copies on two hosts: %v", err)
		}
		if err := drain(&v1.DrainRequest{Host: "hv9"}); api.ReasonOf(err) != reason.NoSuchHost {
			t.Fatalf("a host that is none: %v", err)
		}
		if r := c.replication(id); !r.OK() || c.stateOf(c.hosts[0]) != placement.Alive {
			t.Fatalf("refused, but %s and %+v", c.stateOf(c.hosts[0]), r)
		}
		if _, err := c.hosts[0].control.Remove(c.ctx(), &v1.RemoveRequest{Name: "a"}); err != nil {
			t.Fatal(err)
		}
		quota, light := uint64(1<<20), uint32(1)
		for _, h := range c.hosts[1:] {
			if _, err := c.hosts[0].control.SetHost(c.ctx(), &v1.SetHostRequest{Host: h.cfg.Name, Quota: &quota, Weight: &light}); err != nil {
				t.Fatal(err)
			}
			c.eventually("the quota is kept to", func() bool { return h.store.Usage().Quota == 1<<20 })
		}
		heavy := uint32(10_000)
		if _, err := c.hosts[0].control.SetHost(c.ctx(), &v1.SetHostRequest{Weight: &heavy}); err != nil {
			t.Fatal(err)
		}
		for size := 8 << 20; ; size++ { // a light host may be the home of one, once in a while
			if id, _ := c.publish("b", size, 1); slices.Contains(c.homesOf(id), c.hosts[0].self) {
				break
			}
		}
		if err := drain(&v1.DrainRequest{}); api.ReasonOf(err) != reason.NoSpace {
			t.Fatalf("eight MiB on two hosts of one MiB: %v", err)
		}
		if err := drain(&v1.DrainRequest{Force: true}); err != nil || c.stateOf(c.hosts[0]) != placement.Leaving {
			t.Fatalf("forced: %v, %s", err, c.stateOf(c.hosts[0]))
		}
		time.Sleep(10 * time.Second) // in a bubble: for the leader to think about its voters
		c.hosts[1].stop()
		c.eventually("it is down", func() bool { return c.stateOf(c.hosts[1]) == placement.Down })
		if err := drain(&v1.DrainRequest{Host: "hv2"}); api.ReasonOf(err) != reason.Usage {
			t.Fatalf("a host that is down: %v", err)
		}
	})
}

func (c *crowd) homesOf(id content.Digest) (homes []placement.HostID) {
	c.hosts[0].node.View(func(s *placement.State) { homes = s.Homes(id, 0) })
	return homes
}

func TestHostFollowsItsSettings(t *testing.T) {
	inCrowd(t, 2, func(t *testing.T, c *crowd) {
		h := c.hosts[1]
		set := func(req *v1.SetHostRequest) *v1.Host {
			t.Helper()
			req.Host = h.cfg.Name
			r, err := c.hosts[0].control.SetHost(c.ctx(), req)
			if err != nil {
				t.Fatal(err)
			}
			return r.GetHost()
		}
		quota, up, high, low := uint64(100<<20), uint64(1<<20), uint32(60), uint32(50)
		set(&v1.SetHostRequest{Quota: &quota, Labels: map[string]string{"rack": "r1", "zone": "z1"}})
		got := set(&v1.SetHostRequest{Up: &up, High: &high, Low: &low, Labels: map[string]string{"zone": ""}})
		if l := got.GetLimits(); l.GetQuota() != quota || l.GetUp() != up || l.GetHigh() != high || got.GetLabels()["rack"] != "r1" || len(got.GetLabels()) != 1 {
			t.Fatalf("set to %v", got)
		}
		kept := func() bool { u := h.store.Usage(); return u.Quota == 100<<20 && u.High == 60<<20 && u.Low == 50<<20 }
		c.eventually("the limits are kept to", kept)

		low = 80
		if _, err := c.hosts[0].control.SetHost(c.ctx(), &v1.SetHostRequest{Host: h.cfg.Name, Low: &low}); api.ReasonOf(err) != reason.Usage {
			t.Fatalf("a low watermark above the high one: %v", err)
		}

		h.stop() // what was set stays, the same file says nothing new
		c.start(h)
		c.eventually("the limits are kept to after a restart", kept)
		h.stop() // a key that was edited counts, the others stay
		h.cfg.Weight, h.cfg.Labels = 300, map[string]string{"row": "7"}
		c.start(h)
		c.eventually("the edited keys count", func() bool {
			var now placement.Host
			c.hosts[0].node.View(func(s *placement.State) { now, _ = s.Host(h.self) })
			return now.Weight == 300 && now.Labels["row"] == "7" && now.Labels["rack"] == "r1" && now.Limits.Quota == int64(quota)
		})
		r, err := c.hosts[0].control.ShowHost(c.ctx(), &v1.ShowHostRequest{Host: h.cfg.Name})
		if err != nil || r.GetReport().GetUnreachable() != "" || r.GetReport().GetStore().GetQuota() != quota {
			t.Fatalf("host show: %v, %v", r, err)
		}
	})
}

// Like every other change, that of a setting gives up within seconds where the host hears no leader.
func TestSettingsWithoutLeader(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		h := c.hosts[0]
		c.eventually("all vote", func() bool { return len(h.node.Status().Voters) == 3 })
		for _, other := range c.hosts[1:] {
			c.fabric.Cut(h.cfg.Name, other.cfg.Name, true)
			c.fabric.Cut(other.cfg.Name, h.cfg.Name, true)
		}
		begun, weight := time.Now(), uint32(7)
		_, err := h.control.SetHost(c.ctx(), &v1.SetHostRequest{Weight: &weight})
		if took := time.Since(begun); api.ReasonOf(err) != reason.NoLeader || took > 20*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestUnpinnedIsCache(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		id, _ := c.publish("a", 1<<20, 1)
		err := c.hosts[0].control.Distribute(c.ctx(), &v1.DistributeRequest{Name: "a", All: true, Watch: true}, func(p *v1.DistributeProgress) error {
			if p.GetDone() {
				slow := 0
				for _, h := range p.GetHosts() {
					if h.GetSeconds() > 0 {
						slow++
					}
				}
				if slow == 0 {
					t.Errorf("no host took any time: %v", p)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.hosts[0].control.Unpin(c.ctx(), &v1.UnpinRequest{Name: "a", Hosts: []string{"hv2"}})
		if err != nil || !slices.Equal(r.GetHosts(), []string{"hv2"}) {
			t.Fatalf("unpin: %v, %v", r, err)
		}
		r, err = c.hosts[0].control.Unpin(c.ctx(), &v1.UnpinRequest{Name: "a", All: true})
		if err != nil || !slices.Equal(r.GetHosts(), []string{"hv1", "hv3"}) {
			t.Fatalf("unpin all: %v, %v", r, err)
		}
		if _, err := c.hosts[0].control.Unpin(c.ctx(), &v1.UnpinRequest{Name: "a"}); api.ReasonOf(err) != reason.Usage {
			t.Fatalf("unpin from nobody: %v", err)
		}
		c.hosts[0].node.View(func(s *placement.State) {
			must := 0
			for _, h := range c.hosts {
				if !s.HomeShards(h.self, id).Empty() {
					must++
				}
			}
			if must != 1 {
				t.Errorf("%d hosts must hold it, want its one home", must)
			}
		})
	})
}

// A host that is down for a moment moves nothing; one that is lost has its shards rebuilt, and what was rebuilt is
// surplus when it comes back.
func TestGrace(t *testing.T) {
	inCrowd(t, 4, func(t *testing.T, c *crowd) {
		id, _ := c.publish("a", 1<<20, 2)
		h := c.home(id)
		before := c.homesOf(id)
		h.stop()
		c.eventually("it is down", func() bool { return c.stateOf(h) == placement.Down })
		if r := c.replication(id); r.Awaited == 0 || r.ToGo != 0 || !slices.Equal(before, c.homesOf(id)) {
			t.Fatalf("a host is down: %+v, homes %v before, %v now", r, before, c.homesOf(id))
		}
		c.eventually("it is lost", func() bool { return c.stateOf(h) == placement.Lost })
		c.eventually("its shards are rebuilt", func() bool { return c.replication(id).OK() })
		c.start(h)
		c.eventually("it is back", func() bool { return c.stateOf(h) == placement.Alive })
		if r := c.replication(id); !r.OK() || !slices.Equal(before, c.homesOf(id)) {
			t.Fatalf("a host is back: %+v, homes %v before, %v now", r, before, c.homesOf(id))
		}
	})
}
