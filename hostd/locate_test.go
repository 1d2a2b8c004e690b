package hostd

import (
	"errors"
	"testing"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// moveTo gives a host that is stopped another address, and tells it where to look for the others.
func (h *crowdHost) moveTo(name, look string) {
	h.cfg.Listen, h.cfg.Advertise, h.cfg.Join, h.cfg.Token = name+":7117", name+":7117", look, ""
}

// leads says whether a host's cluster has a leader that it can ask.
func (c *crowd) leads(h *crowdHost) bool { return h.node.ReadIndex(c.ctx()) == nil }

// TestAllAddressesChange: hosts that all have other addresses find one another by the address of one of them.
func TestAllAddressesChange(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		c.eventually("all vote", func() bool { return len(c.hosts[0].node.Status().Voters) == 3 })
		for _, h := range c.hosts {
			h.stop()
		}
		for _, h := range c.hosts {
			h.moveTo("new-"+h.cfg.Name, "new-hv1:7117")
		}
		for _, h := range c.hosts {
			c.start(h)
		}
		for _, h := range c.hosts {
			c.eventually("a leader is there again", func() bool { return c.leads(h) })
			c.eventually("the catalogue has the new addresses", func() bool {
				for _, m := range c.members(h) {
					if m.Addr != "new-"+m.Name+":7117" {
						return false
					}
				}
				return true
			})
		}
	})
}

// TestAMajorityComesBackElsewhere: of three hosts two have other addresses, and nobody is told where to look.
func TestAMajorityComesBackElsewhere(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		c.eventually("all vote", func() bool { return len(c.hosts[0].node.Status().Voters) == 3 })
		for _, h := range c.hosts[1:] {
			h.stop()
			h.moveTo("new-"+h.cfg.Name, "")
		}
		for _, h := range c.hosts[1:] {
			c.start(h)
		}
		for _, h := range c.hosts {
			c.eventually("a leader is there again", func() bool { return c.leads(h) })
		}
	})
}

// TestJoinNeedsATokenOfStrangers: an address alone makes no host a member.
func TestJoinNeedsATokenOfStrangers(t *testing.T) {
	inCrowd(t, 1, func(t *testing.T, c *crowd) {
		h := &crowdHost{disk: c.hosts[0].disk, cfg: c.hosts[0].cfg}
		h.cfg.Data, h.cfg.Name = "/other", "hv9"
		h.moveTo("hv9", "hv1:7117")
		if err := c.opens(h, "hv1:7117", ""); !errors.Is(err, ErrConfig) || reason.Of(err) != reason.InvalidConfig {
			t.Errorf("joined without a token: %v", err)
		}
	})
}
