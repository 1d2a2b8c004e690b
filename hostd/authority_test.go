package hostd

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// eventuallySettled waits until n hosts vote, and they alone hold the key of the authority that signs.
func (c *crowd) eventuallySettled(n int, hosts ...*crowdHost) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d hosts vote, and they alone sign", n), func() bool {
		voters := hosts[0].node.Status().Voters
		for _, h := range hosts {
			if votes := slices.Contains(voters, h.self); votes != h.id.CA().Signs() || votes != h.id.HoldsKeys() {
				return false
			}
		}
		return len(voters) == n
	})
}

// outsider returns a host that does not vote.
func (c *crowd) outsider(hosts ...*crowdHost) *crowdHost {
	c.t.Helper()
	for _, h := range hosts {
		if !slices.Contains(hosts[0].node.Status().Voters, h.self) {
			return h
		}
	}
	c.t.Fatal("every host votes")
	return nil
}

// authorities shows those that a host trusts, with the names of the hosts that have their certificates: "active hv1 hv2".
func (c *crowd) authorities(h *crowdHost) (all string) {
	r, err := h.control.Authorities(c.ctx(), &v1.AuthoritiesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, a := range r.GetAuthorities() {
		state := strings.ToLower(strings.TrimPrefix(a.GetState().String(), "AUTHORITY_STATE_"))
		all += strings.Join(append([]string{state}, a.GetHosts()...), " ") + "; "
	}
	return all
}

// rotate replaces the authority, asked at a host.
func (c *crowd) rotate(h *crowdHost) (last *v1.RotateAuthorityProgress) {
	c.t.Helper()
	err := h.control.RotateAuthority(c.ctx(), &v1.RotateAuthorityRequest{}, func(p *v1.RotateAuthorityProgress) error {
		last = p
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return last
}

// joins makes a new host of the cluster, at a member.
func (c *crowd) joins(name string, at *crowdHost) *crowdHost {
	c.t.Helper()
	h := &crowdHost{disk: disktest.NewMemory(1 << 30), cfg: at.cfg}
	h.cfg.Name, h.cfg.Listen, h.cfg.Advertise = name, name+":7117", name+":7117"
	h.cfg.Join, h.cfg.Token = at.cfg.Listen, c.token(at)
	c.hosts = append(c.hosts, h)
	c.start(h)
	return h
}

// TestKeyStandsAtVoters: a host that does not vote holds no key, admits hosts all the same, and gets the key when it
// comes to vote.
func TestKeyStandsAtVoters(t *testing.T) {
	inCrowd(t, 4, func(t *testing.T, c *crowd) {
		c.eventuallySettled(3, c.hosts...)
		out := c.outsider(c.hosts...)
		late := c.joins("hv9", out)
		c.eventually("the late one is a member", func() bool { return len(c.members(late)) == 5 })
		late.stop()
		c.forceOut(c.hosts[0], "hv9")

		gone := c.hosts[1]
		if gone == out {
			gone = c.hosts[2]
		}
		gone.stop()
		c.forceOut(c.hosts[0], gone.cfg.Name)
		var rest []*crowdHost
		for _, h := range c.hosts[:4] {
			if h != gone {
				rest = append(rest, h)
			}
		}
		c.eventuallySettled(3, rest...)
	})
}

// TestKeyIsForVoters: what a member is told of the key.
func TestKeyIsForVoters(t *testing.T) {
	inCrowd(t, 4, func(t *testing.T, c *crowd) {
		c.eventuallySettled(3, c.hosts...)
		out := c.outsider(c.hosts...)
		var id string
		c.hosts[0].node.View(func(s *placement.State) {
			signing, _ := s.Signing()
			id = signing.ID
		})
		var at placement.Host
		for _, h := range c.members(out) {
			if h.ID != out.self {
				at = h
			}
		}
		if held, key, err := out.peers.AuthorityKey(c.ctx(), at, id); err != nil || !held || len(key) > 0 {
			t.Errorf("a host that does not vote is given %d bytes of key: held %v, %v", len(key), held, err)
		}
		for _, h := range c.hosts {
			if h == out || h.self == at.ID {
				continue
			}
			if held, key, err := h.peers.AuthorityKey(c.ctx(), at, id); err != nil || !held || len(key) == 0 {
				t.Errorf("%s votes and is given no key: held %v, %v", h.cfg.Name, held, err)
			}
		}
		if _, _, err := out.peers.AuthorityKey(c.ctx(), at, "nonsense"); reason.Of(err) != reason.Usage {
			t.Errorf("nonsense: %v", err)
		}
		// A certificate is signed for members alone, whoever asks.
		stranger, err := pki.Prepare(disktest.NewMemory(1<<20), "/pki")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.peers.Renew(c.ctx(), at, stranger.CSR()); reason.Of(err) != reason.NotMember {
			t.Errorf("a stranger: %v", err)
		}
		if _, err := out.peers.Renew(c.ctx(), at, []byte("garbage")); reason.Of(err) != reason.Usage {
			t.Errorf("garbage: %v", err)
		}
	})
}

// TestCertificatesRenew after days in which all hosts, or one of them, were switched off: those that sign by themselves,
// the others there.
func TestCertificatesRenew(t *testing.T) {
	inCrowd(t, 4, func(t *testing.T, c *crowd) {
		c.eventuallySettled(3, c.hosts...)
		out := c.outsider(c.hosts...)
		for _, away := range []time.Duration{3 * 24 * time.Hour, 30 * 24 * time.Hour} {
			for _, h := range c.hosts {
				h.stop()
			}
			time.Sleep(away)
			for _, h := range c.hosts {
				if h != out {
					c.start(h)
				}
			}
			c.start(out) // it needs the others
			for _, h := range c.hosts {
				c.eventually(h.cfg.Name+" has a fresh certificate", func() bool { return time.Until(h.id.Expires()) > pki.HostLife-time.Hour })
				c.eventually(h.cfg.Name+" takes part", func() bool {
					r, err := h.control.Hosts(c.ctx(), &v1.HostsRequest{})
					return err == nil && !r.GetStaleness().GetStale()
				})
			}
		}
	})
}

// TestAuthorityRotates while hosts run, one is down, and somebody has a copy of the old key.
func TestAuthorityRotates(t *testing.T) {
	inCrowd(t, 4, func(t *testing.T, c *crowd) {
		c.eventuallySettled(3, c.hosts...)
		out := c.outsider(c.hosts...)
		thief := rogue{c, c.hosts[0].id}.forge() // by the key, while it is the one
		_, kept := c.publish("kept", 1<<20, 2)
		away := c.hosts[3]
		if away == out {
			away = c.hosts[2]
		}
		spare := c.token(out)
		away.stop()
		c.eventually("the cluster knows that one is down", func() bool { return c.stateOf(away) == placement.Down })

		done := c.rotate(out)
		if !done.GetDone() || done.GetRenewed() != 3 || !slices.Equal(done.GetDown(), []string{away.cfg.Name}) {
			t.Errorf("the rotation ended with %v", done)
		}
		up := slices.DeleteFunc(slices.Clone(c.hosts), func(h *crowdHost) bool { return h == away })
		c.eventuallySettled(3, up...)
		c.eventually("the old authority is gone", func() bool { return strings.Count(c.authorities(out), ";") == 1 })
		c.refused(c.opens(&crowdHost{disk: disktest.NewMemory(1 << 30), cfg: Config{
			Data: "/data", Listen: "hv8:7117", Advertise: "hv8:7117", Name: "hv8", Libvirt: LibvirtConfig{noLibvirt},
		}}, "hv1:7117", spare), reason.NotMember, "a token from before", "virtswarm token")
		thief.out(thief.client("hv1"), "a certificate by the old key")

		c.start(away)
		c.eventually("the one that was down has a certificate of the new one", func() bool {
			return c.authorities(c.hosts[0]) == "active hv1 hv2 hv3 hv4; "
		})
		c.wantPulled("kept", "", kept)
		late := c.joins("hv9", out)
		c.eventually("a host joins", func() bool { return len(c.members(late)) == 5 })
		thief.out(thief.client("hv9"), "a certificate by the old key, at a host that joined after")

		// With a token in its unit file that an authority has made which nobody trusts any more, a member starts.
		out.stop()
		out.cfg.Join, out.cfg.Token = "hv1:7117", spare
		c.start(out)
		if out.id.HostID() != string(out.self) {
			t.Error("it joined anew")
		}
	})
}

// TestRotationIsGivenUp if its key is lost before any other host holds it; then another one is possible.
func TestRotationIsGivenUp(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		c.eventuallySettled(3, c.hosts...)
		ca, err := pki.NewCA(c.hosts[0].id.Cluster())
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.hosts[0].node.Apply(c.ctx(), placement.Command{SetAuthority: &placement.SetAuthority{
			ID: fmt.Sprintf("%x", ca.Pin()), Cert: ca.Certificate(), TokenKey: make([]byte, pki.TokenKeySize), To: placement.NextAuthority,
		}})
		if err != nil {
			t.Fatal(err)
		}
		err = c.hosts[1].control.RotateAuthority(c.ctx(), &v1.RotateAuthorityRequest{}, func(*v1.RotateAuthorityProgress) error { return nil })
		if reason.Of(err) != reason.Usage || !strings.Contains(err.Error(), "on its way") {
			t.Errorf("a second rotation: %v", err)
		}
		c.eventually("it is given up", func() bool { return c.authorities(c.hosts[1]) == "active hv1 hv2 hv3; " })
		if done := c.rotate(c.hosts[1]); !done.GetDone() {
			t.Errorf("the next one: %v", done)
		}
	})
}

// TestRecoveryWithoutTheKey: a cluster that is recovered at a host which did not vote makes itself another authority.
func TestRecoveryWithoutTheKey(t *testing.T) {
	inCrowd(t, 4, func(t *testing.T, c *crowd) {
		c.eventuallySettled(3, c.hosts...)
		out := c.outsider(c.hosts...)
		var gone []string
		for _, h := range c.hosts {
			h.stop()
			if h != out {
				gone = append(gone, h.cfg.Name)
			}
		}
		plug := c.fabric.Plug(out.cfg.Name)
		r, err := OpenRecovery(out.cfg, Options{Network: plug, FS: out.disk, ListenLocal: func() (net.Listener, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		survivors := r.Survey(c.ctx())
		if err := r.Recover(survivors, gone, false); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		plug.Unplug(false)
		time.Sleep(10 * 24 * time.Hour) // its certificate expires meanwhile
		c.hosts = []*crowdHost{out}
		c.start(out)
		c.eventually("it signs", func() bool { return out.id.CA().Signs() && !out.id.NeedsRenewal() })
		c.eventually("the old authority is gone", func() bool { return c.authorities(out) == "active "+out.cfg.Name+"; " })
		late := c.joins("hv9", out)
		c.eventually("a host joins", func() bool { return len(c.members(late)) == 2 })
	})
}
