package hostd

import (
	"context"
	"errors"
	"testing"

	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/qmp"
)

func TestPluggerIsTheManagers(t *testing.T) {
	libvirt := placement.Domain{UUID: "u", Manager: placement.ManagedByLibvirt}
	bare := placement.Domain{UUID: "u", Manager: placement.ManagedByQMP}
	if _, err := new(Host).plugger(libvirt); !errors.Is(err, virt.ErrNoLibvirt) {
		t.Error(err)
	}
	if _, err := new(Host).plugger(bare); err == nil {
		t.Error("somebody plugs where nobody can")
	}
	h := &Host{libvirt: new(virt.Watcher), unmanaged: observe.NewUnmanaged(qmp.New(qmp.Config{}))}
	if p, err := h.plugger(libvirt); err != nil || p != guest.Plugger(h.libvirt) {
		t.Errorf("%T, %v", p, err)
	}
	if p, err := h.plugger(bare); err != nil || p != guest.Plugger(h.unmanaged) {
		t.Errorf("%T, %v", p, err)
	}
}

// sightings are domains that a test sees in libvirt's place.
type sightings []placement.Domain

func (s sightings) Domains() ([]placement.Domain, bool) { return s, true }
func (s sightings) Changed() <-chan struct{}            { return nil }

// memories notes what is attached.
type memories struct {
	sizes map[string]int64
	err   error
}

func (m *memories) Attach(_ context.Context, d placement.Domain, size int64) error {
	m.sizes[d.UUID] = size
	return m.err
}

func (m *memories) Detach(_ context.Context, d placement.Domain) error {
	delete(m.sizes, d.UUID)
	return m.err
}

// TestShmFindsItsHost: whichever host is asked, memory is attached where the domain runs.
func TestShmFindsItsHost(t *testing.T) {
	inCrowd(t, 2, func(t *testing.T, c *crowd) {
		asked, there := c.hosts[0], c.hosts[1]
		const (
			web = "11111111-1111-4111-8111-111111111111"
			db  = "22222222-2222-4222-8222-222222222222"
			mem = "33333333-3333-4333-8333-333333333333"
		)
		there.stop()
		there.seen = sightings{
			{UUID: web, Name: "web", State: placement.DomainRunning, Manager: placement.ManagedByLibvirt, WantShm: 2 << 20, Push: &placement.Push{Quota: 7}},
			{UUID: db, Name: "db", State: placement.DomainOff, Manager: placement.ManagedByLibvirt},
			{UUID: mem, Name: "mem", State: placement.DomainRunning, Manager: placement.ManagedByLibvirt, Shm: 4 << 20, WantShm: 2 << 20},
		}
		c.start(there)
		c.eventually("the domains are known", func() bool {
			r, err := asked.control.Guests(c.ctx(), &v1.GuestsRequest{})
			return err == nil && len(r.GetGuests()) == 3
		})
		attach := func(guest string, size uint64) (*v1.Guest, error) {
			r, err := asked.control.AttachShm(c.ctx(), &v1.AttachShmRequest{Guest: guest, Size: size})
			return r.GetGuest(), err
		}
		m := &memories{sizes: map[string]int64{}}
		there.control.GuestOps.Memory = m
		g, err := attach("web", 0)
		if err != nil || m.sizes[web] != 2<<20 || g.GetShm() != 2<<20 || g.GetWantShm() != 2<<20 || g.GetPush().GetQuota() != 7 {
			t.Errorf("%v, %v, attached %v", g, err, m.sizes)
		}
		if _, err := attach(web, 1<<20); err != nil || m.sizes[web] != 1<<20 {
			t.Errorf("%v, attached %v", err, m.sizes)
		}
		if g, err := attach("mem", 0); err != nil || g.GetShm() != 4<<20 || m.sizes[mem] != 4<<20 {
			t.Errorf("what is there: %v, %v, attached %v", g, err, m.sizes)
		}
		delete(m.sizes, mem)
		if _, err := attach("db", 0); api.ReasonOf(err) != reason.NoGuestLink {
			t.Errorf("a guest that is off: %v", err)
		}
		for _, size := range []uint64{1, 3 << 20, 1 << 63} {
			if _, err := attach("web", size); api.ReasonOf(err) != reason.Usage {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
		if _, err := attach("nobody", 0); api.ReasonOf(err) != reason.NoSuchGuest {
			t.Error(err)
		}
		r, err := asked.control.DetachShm(c.ctx(), &v1.DetachShmRequest{Guest: "web"})
		if err != nil || len(m.sizes) != 0 || r.GetGuest().GetShm() != 0 {
			t.Errorf("%v, %v, left %v", r, err, m.sizes)
		}
		m.err = virt.ErrNotUnplugged
		if _, err := asked.control.DetachShm(c.ctx(), &v1.DetachShmRequest{Guest: "web"}); api.ReasonOf(err) != reason.NoGuestLink {
			t.Error(err)
		}
		m.err = errors.New("what libvirt says")
		if _, err := attach("web", 0); api.ReasonOf(err) != reason.NoGuestLink {
			t.Error(err)
		}
	})
}
