package hostd

import (
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// TestMemberCallsBack: a machine that says the address of another host, or one that it picked and at which it is not, is
// not admitted. Its token stays good.
func TestMemberCallsBack(t *testing.T) {
	inCrowd(t, 2, func(t *testing.T, c *crowd) {
		late := &crowdHost{disk: disktest.NewMemory(1 << 30), cfg: c.hosts[1].cfg}
		late.cfg.Name, late.cfg.Listen = "hv9", "hv9:7117"
		token := c.token(c.hosts[0])
		late.cfg.Advertise = "hv2:7117" // there is another host
		err := c.opens(late, "hv1:7117", token)
		c.refused(err, reason.InvalidConfig, "the address of another host", "advertise")
		if err != nil && !strings.Contains(err.Error(), "hv2:7117") {
			t.Errorf("it does not say which address: %v", err)
		}
		if n := len(c.members(c.hosts[0])); n != 2 {
			t.Fatalf("%d members", n)
		}
		// What a daemon picked, nobody stands for.
		request, err := pki.Prepare(disktest.NewMemory(1<<20), "/pki")
		if err != nil {
			t.Fatal(err)
		}
		picked := control.Applicant{Token: token, CSR: request.CSR(), Name: "hv9", Address: "hv8:7117", Picked: true, Version: placement.Newest}
		if _, err := c.hosts[0].control.HostOps.Admit(c.ctx(), picked); reason.Of(err) != reason.InvalidConfig {
			t.Errorf("an address that was picked: %v", err)
		}

		// Where nobody is, somebody may be later; an operator said so. It is a member, and found once it says where it is.
		late.cfg.Advertise, late.cfg.Join, late.cfg.Token = "hv8:7117", "hv1:7117", token
		c.hosts = append(c.hosts, late)
		c.start(late)
		c.eventually("it is down", func() bool { return len(c.members(c.hosts[0])) == 3 && c.stateOf(late) == placement.Down })
		late.stop()
		late.cfg.Advertise = "hv9:7117"
		c.start(late)
		c.eventually("it is found", func() bool { return c.stateOf(late) == placement.Alive })
	})
}
