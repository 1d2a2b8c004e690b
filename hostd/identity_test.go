package hostd

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// opens tries to start a host that is expected to fail, or not to run for long.
func (c *crowd) opens(h *crowdHost, join, token string) error {
	c.t.Helper()
	cfg := h.cfg
	cfg.Join, cfg.Token = join, token
	plug := c.fabric.Plug(cfg.Name)
	host, err := New(c.ctx(), cfg, Options{Network: plug, FS: h.disk, ListenLocal: func() (net.Listener, error) { return nil, nil }})
	if err == nil {
		host.close()
	}
	plug.Unplug(false)
	return err
}

// listens listens at an address of a host.
func (c *crowd) listens(plug *linktest.Plug, addr string) net.Listener {
	c.t.Helper()
	l, err := plug.Listen(c.ctx(), "tcp://"+addr)
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}

func (c *crowd) token(h *crowdHost) string {
	c.t.Helper()
	r, err := h.control.CreateToken(c.ctx(), &v1.CreateTokenRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.GetToken()
}

// identityFiles gives the content of all that makes a host what it is.
func (c *crowd) identityFiles(h *crowdHost) map[string]string {
	c.t.Helper()
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := h.disk.ReadDir(dir)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.IsDir() {
				if path != "/data/store" {
					all[path] = "directory"
					walk(path)
				}
				continue
			}
			p, err := disk.ReadFile(h.disk, path, 64<<20)
			if err != nil {
				c.t.Fatal(err)
			}
			all[path] = fmt.Sprintf("%x", sha256.Sum256(p))
		}
	}
	walk("/data")
	return all
}

// unchanged runs f and wants the host's directory to be as before.
func (c *crowd) unchanged(h *crowdHost, what string, f func()) {
	c.t.Helper()
	before := c.identityFiles(h)
	f()
	after := c.identityFiles(h)
	for path, sum := range before {
		if after[path] != sum {
			c.t.Errorf("%s: %s was changed or removed", what, path)
		}
	}
	for path := range after {
		if before[path] == "" {
			c.t.Errorf("%s: %s is new", what, path)
		}
	}
}

func (c *crowd) refused(err error, want reason.Reason, what, next string) {
	c.t.Helper()
	e := reason.As(err, "")
	if err == nil || e.Reason != want {
		c.t.Errorf("%s: %v, want the reason %v", what, err, want)
	} else if !strings.Contains(reason.Flags(e.Next()), next) {
		c.t.Errorf("%s: the next step is %q, want %q in it", what, e.Next(), next)
	}
}

// forceOut takes a host that is stopped out of the cluster.
func (c *crowd) forceOut(at *crowdHost, name string) {
	c.t.Helper()
	err := at.control.Leave(c.ctx(), &v1.LeaveRequest{Host: name, Force: true}, func(*v1.LeaveProgress) error { return nil })
	if err != nil {
		c.t.Fatal(err)
	}
}

// A host without its Raft data does not start under its old id, and comes back under a new one with a token.
func TestStartWithoutRaftData(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		h := c.hosts[2]
		h.stop()
		was := h.self
		if err := h.disk.RemoveAll("/data/raft"); err != nil {
			t.Fatal(err)
		}
		c.unchanged(h, "a start without Raft data", func() {
			c.refused(c.opens(h, "", ""), reason.OldCopy, "a start without Raft data", "virtswarm leave --force hv3")
		})
		c.unchanged(h, "a join beside the old member", func() {
			c.refused(c.opens(h, "hv1:7117", c.token(c.hosts[0])), reason.HostNameTaken, "a join beside the old member", "leave --force")
		})
		c.forceOut(c.hosts[0], "hv3")
		c.unchanged(h, "a join with a bad token", func() {
			c.refused(c.opens(h, "hv1:7117", "vst1.nonsense"), reason.BadToken, "a join with a bad token", "virtswarm token")
		})
		used := c.hosts[1].cfg.Token
		c.unchanged(h, "a join with a used token", func() {
			c.refused(c.opens(h, "hv1:7117", used), reason.BadToken, "a join with a used token", "virtswarm token")
		})
		c.unchanged(h, "a join at nobody", func() {
			c.refused(c.opens(h, "hv9:7117", c.token(c.hosts[0])), reason.Unreachable, "a join at nobody", "check that virtswarmd runs there")
		})
		h.cfg.Join, h.cfg.Token = "hv1:7117", c.token(c.hosts[0])
		c.start(h)
		if h.self == was {
			t.Error("the host joined under its old id")
		}
		c.eventually("it is a member again", func() bool { return c.stateOf(h) == placement.Alive && len(c.members(h)) == 3 })
		h.stop()
		c.start(h) // with the same flags, as a unit file may have them
	})
}

// A host that the cluster has removed joins anew with a token, and only with a good one.
func TestRejoinAfterRemoval(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		h := c.hosts[2]
		h.stop()
		was := h.self
		spare := c.token(c.hosts[0])
		c.unchanged(h, "a member with a token", func() {
			if !h.memberAt(c.ctx(), c, "hv1:7117") {
				t.Error("hv1 calls a member removed")
			}
		})
		c.forceOut(c.hosts[0], "hv3")
		c.unchanged(h, "a join with a used token", func() {
			c.refused(c.opens(h, "hv1:7117", c.hosts[1].cfg.Token), reason.BadToken, "a join with a used token", "virtswarm token")
		})
		h.cfg.Join, h.cfg.Token = "hv1:7117", spare
		c.start(h)
		if h.self == was {
			t.Error("the host joined under its old id")
		}
		c.eventually("it is a member again", func() bool { return c.stateOf(h) == placement.Alive && len(c.members(h)) == 3 })
		if !exists(h.disk, "/data/raft.old") || exists(h.disk, "/data/pki.new") {
			t.Error("the old catalogue is gone, or the new identity is not in its place")
		}
	})
}

// memberAt says whether the host at an address takes this one, which is stopped, for a member.
func (h *crowdHost) memberAt(ctx context.Context, c *crowd, addr string) bool {
	plug := c.fabric.Plug(h.cfg.Name)
	defer plug.Unplug(false)
	asking := &Host{cfg: h.cfg, fs: h.disk, network: plug, log: h.log}
	asking.cfg.Join = addr
	id, err := pki.Load(h.disk, "/data/pki")
	if err != nil {
		c.t.Fatal(err)
	}
	return !asking.removedAt(ctx, id)
}

// A token of another cluster is refused, and the host stays what it is.
func TestTokenOfAnotherCluster(t *testing.T) {
	inCrowd(t, 1, func(t *testing.T, c *crowd) {
		other := &crowdHost{disk: disktest.NewMemory(1 << 30), cfg: Config{
			Data: "/data", Listen: "hv9:7117", Advertise: "hv9:7117", Name: "hv9", Libvirt: LibvirtConfig{noLibvirt},
		}}
		c.hosts = append(c.hosts, other)
		c.start(other)
		c.eventually("it has a cluster of its own", func() bool { return len(c.members(other)) == 1 })
		other.stop()
		c.unchanged(other, "a token of another cluster", func() {
			c.refused(c.opens(other, "hv1:7117", c.token(c.hosts[0])), reason.NotMember, "a token of another cluster", "start without --join")
		})
		c.unchanged(other, "a token that is none", func() {
			c.refused(c.opens(other, "hv1:7117", "vst1.nonsense"), reason.BadToken, "a token that is none", "virtswarm token")
		})
		if err := other.disk.RemoveAll("/data/raft"); err != nil {
			t.Fatal(err)
		}
		c.unchanged(other, "the same without Raft data", func() {
			c.refused(c.opens(other, "hv1:7117", c.token(c.hosts[0])), reason.NotMember, "the same without Raft data", "start without --join")
		})
	})
}

// Wherever a daemon is killed while it joins anew, the next start goes on as one host or the other, never as a founder.
func TestKilledWhileJoiningAnew(t *testing.T) {
	for _, variant := range []struct{ raftGone, power bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		raftGone, power := variant.raftGone, variant.power
		for step := 1; ; step++ {
			done := false
			inCrowd(t, 2, func(t *testing.T, c *crowd) {
				h := c.hosts[1]
				h.stop()
				was, cluster := h.self, h.id.Cluster()
				c.forceOut(c.hosts[0], "hv2")
				if raftGone {
					if err := h.disk.RemoveAll("/data/raft"); err != nil {
						t.Fatal(err)
					}
				}
				faulty, err := disktest.NewFault(h.disk, "/attic", uint64(step))
				if err != nil {
					t.Fatal(err)
				}
				faulty.KillAt(step)
				cfg := h.cfg
				cfg.Join, cfg.Token = "hv1:7117", c.token(c.hosts[0])
				plug := c.fabric.Plug(cfg.Name)
				host := &Host{can: placement.Newest, cfg: cfg, fs: faulty, network: plug, log: h.log, port: c.listens(plug, cfg.Listen), advertise: cfg.Advertise}
				if err := host.cfg.Validate(); err != nil {
					t.Fatal(err)
				}
				done = host.identify(c.ctx()) == nil
				plug.Unplug(false)
				faulty.Kill()
				if power {
					if err := faulty.PowerOff(); err != nil {
						t.Fatal(err)
					}
				}
				id, err := (&Host{cfg: host.cfg, fs: h.disk, log: h.log}).loadIdentity()
				if err != nil {
					t.Fatalf("killed at step %d, the directory has no identity: %v", step, err)
				}
				if id.Cluster() != cluster {
					t.Fatalf("killed at step %d, the host is of another cluster", step)
				}
				again := &Host{cfg: host.cfg, fs: h.disk, log: h.log}
				switch may, err := again.mayResume(id); {
				case err != nil:
					t.Fatal(err)
				case placement.HostID(id.HostID()) == was && may != !raftGone:
					t.Errorf("killed at step %d, still the old host, which may resume: %v", step, may)
				case placement.HostID(id.HostID()) != was && (!may || exists(h.disk, "/data/raft")):
					t.Errorf("killed at step %d, the new host may resume: %v, beside old Raft data: %v", step, may, exists(h.disk, "/data/raft"))
				}
				h.cfg.Join, h.cfg.Token = cfg.Join, cfg.Token // the same token: the key is the same
				c.start(h)
				c.eventually("it is a member again", func() bool { return c.stateOf(h) == placement.Alive })
			})
			if done {
				t.Logf("%d steps", step-1)
				break
			}
			if t.Failed() || step > 200 {
				t.Fatal("no join went through")
			}
		}
	}
}
