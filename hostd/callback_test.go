package hostd

import (
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// TestMemberCallsBack: a machine that says an address at which it is not, but nobody or another host, is not admitted.
// Its token stays good.
func TestMemberCallsBack(t *testing.T) {
	inCrowd(t, 2, func(t *testing.T, c *crowd) {
		late := &crowdHost{disk: disktest.NewMemory(1 << 30), cfg: c.hosts[1].cfg}
		late.cfg.Name, late.cfg.Listen = "hv9", "hv9:7117"
		token := c.token(c.hosts[0])
		for _, addr := range []string{"hv8:7117", "hv9:7118", "hv2:7117"} {
			late.cfg.Advertise = addr
			err := c.opens(late, "hv1:7117", token)
			c.refused(err, reason.InvalidConfig, "a wrong address: "+addr, "advertise")
			if err != nil && !strings.Contains(err.Error(), addr) {
				t.Errorf("it does not say which address: %v", err)
			}
			if n := len(c.members(c.hosts[0])); n != 2 {
				t.Fatalf("%d members", n)
			}
		}
		late.cfg.Advertise, late.cfg.Join, late.cfg.Token = "hv9:7117", "hv1:7117", token
		c.hosts = append(c.hosts, late)
		c.start(late)
		c.eventually("it is a member", func() bool { return len(c.members(late)) == 3 })
	})
}
