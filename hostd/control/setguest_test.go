package control

import (
	"testing"

	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// TestCheckLink refuses what no metadata may say of a guest link.
func TestCheckLink(t *testing.T) {
	size := func(n int64) *int64 { return &n }
	for what, req := range map[string]GuestChange{
		"3 MiB":         {Shm: size(3 << 20)},
		"endless":       {Shm: size(-1 << 63)},
		"no quota":      {Push: &placement.Push{Prefix: "a"}},
		"endless quota": {Push: &placement.Push{Quota: -1 << 63}},
		"climbs":        {Push: &placement.Push{Quota: 1, Prefix: "../a"}},
		"no policy":     {Push: &placement.Push{Quota: 1, Guests: "tag:"}},
		"both":          {Push: &placement.Push{Quota: 1}, RemovePush: true},
	} {
		if err := req.check(); reason.Of(err) != reason.Usage && reason.Of(err) != reason.InvalidName {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, req := range map[string]GuestChange{
		"none": {Shm: size(0)}, "16 MiB": {Shm: size(16 << 20)}, "off": {RemovePush: true},
		"a slash at the end": {Push: &placement.Push{Quota: 1 << 30, Prefix: "builds/web/", Guests: "all"}},
	} {
		if err := req.check(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestChangeLink: what a request does not say stays.
func TestChangeLink(t *testing.T) {
	m := virt.Metadata{Shm: 1 << 20, Push: &placement.Push{Quota: 1}}
	(&GuestChange{}).changeLink(&m)
	if m.Shm != 1<<20 || m.Push == nil {
		t.Errorf("%+v", m)
	}
	none := int64(0)
	(&GuestChange{Shm: &none, Push: &placement.Push{Quota: 2, Prefix: "a/"}}).changeLink(&m)
	if m.Shm != 0 || *m.Push != (placement.Push{Quota: 2, Prefix: "a"}) {
		t.Errorf("%+v", m)
	}
	(&GuestChange{RemovePush: true}).changeLink(&m)
	if !m.IsZero() {
		t.Errorf("%+v", m)
	}
}
