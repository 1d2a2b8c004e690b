package hostd

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// rogue is somebody with root on a host that was removed: it has the host's key, and that of the CA.
type rogue struct {
	c  *crowd
	id *pki.Identity
}

// client opens a connection to a host that is kept, and calls its API over it.
func (r rogue) client(at string) *api.Client {
	dialer := &link.Dialer{Network: r.c.fabric.Plug("rogue"), Identity: r.id}
	client := api.NewClient(func(ctx context.Context) (net.Conn, error) { return dialer.Dial(ctx, at+":7117", link.ProtoHTTP2, "") })
	r.c.t.Cleanup(client.Close)
	return client
}

// forge makes an identity that no host ever had.
func (r rogue) forge() rogue {
	r.c.t.Helper()
	request, err := pki.Prepare(disktest.NewMemory(1<<20), "/pki")
	if err != nil {
		r.c.t.Fatal(err)
	}
	ca := r.id.CA()
	cert, _, err := ca.SignCSR(request.CSR())
	if err != nil {
		r.c.t.Fatal(err)
	}
	forged, err := request.Accept(ca.Pin(), cert, ca.Certificate(), ca.Key())
	if err != nil {
		r.c.t.Fatal(err)
	}
	return rogue{r.c, forged}
}

// out wants a host to carry out nothing for the rogue, over a connection old or new, for a while.
func (r rogue) out(client *api.Client, what string) {
	r.c.t.Helper()
	for range 30 {
		_, err := client.Control.CreateToken(r.c.ctx(), &v1.CreateTokenRequest{})
		if why := api.ReasonOf(err); why != reason.NotMember && why != reason.Unreachable {
			r.c.t.Fatalf("%s: %v, want it refused", what, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// TestRemovedMeansOut: neither over a connection from before, nor with a forged identity does a host that was removed
// get in, also not at a host that starts and has nobody to ask.
func TestRemovedMeansOut(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		c.eventuallySettled(3, c.hosts...) // so that it has the key
		r := rogue{c, c.hosts[2].id}
		old := r.client("hv1")
		if _, err := old.Control.CreateToken(c.ctx(), &v1.CreateTokenRequest{}); err != nil {
			t.Fatalf("a member: %v", err)
		}
		c.hosts[2].stop()
		quiet := func(*v1.LeaveProgress) error { return nil }
		if err := c.hosts[0].control.Leave(c.ctx(), &v1.LeaveRequest{Host: "hv3", Force: true}, quiet); err != nil {
			t.Fatal(err)
		}
		r.out(old, "an old connection")
		r.out(r.client("hv1"), "a new connection")
		forged := r.forge()
		forged.out(forged.client("hv1"), "a forged identity")

		c.hosts[1].stop()
		c.hosts[0].stop()
		c.start(c.hosts[1]) // it knows no leader, and cannot ask
		r.out(r.client("hv2"), "the old identity, at a host that has just started")
		forged.out(forged.client("hv2"), "a forged identity, at a host that has just started")
		for _, one := range []rogue{r, forged} {
			dialer := &link.Dialer{Network: c.fabric.Plug("rogue"), Identity: one.id}
			conn, err := dialer.Dial(c.ctx(), "hv2:7117", link.ProtoRaft, "")
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
				conn.Close()
			}
			if !link.Refused(err) {
				t.Errorf("Raft takes a stranger in: %v", err)
			}
		}
		c.start(c.hosts[0])
		c.eventually("the members go on", func() bool { return len(c.members(c.hosts[0])) == 2 })
	})
}

// TestMembersVouchForNewOnes: a host that was away when others joined, and was taken over by them, finds back.
func TestMembersVouchForNewOnes(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		away := c.hosts[1]
		away.stop()
		late := &crowdHost{disk: disktest.NewMemory(1 << 30), cfg: c.hosts[2].cfg}
		late.cfg.Name, late.cfg.Listen, late.cfg.Advertise = "hv4", "hv4:7117", "hv4:7117"
		c.invite(late)
		c.hosts = append(c.hosts, late)
		c.start(late)
		c.eventually("the late one is a member", func() bool { return len(c.members(late)) == 4 })
		quiet := func(*v1.LeaveProgress) error { return nil }
		if err := c.hosts[0].control.Leave(c.ctx(), &v1.LeaveRequest{}, quiet); err != nil {
			t.Fatal(err)
		}
		c.start(away)
		c.eventually("it is current, and knows the late one", func() bool {
			r, err := away.control.Hosts(c.ctx(), &v1.HostsRequest{})
			return err == nil && !r.GetStaleness().GetStale() && len(r.GetHosts()) == 3
		})
	})
}
