package observe

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/qmp"
)

// TestInUse: what domains of this host need, or have as an image, is pinned as long as they do; of what others need
// nothing is.
func TestInUse(t *testing.T) {
	const here, there = placement.HostID("00000000000000000000000000000001"), placement.HostID("00000000000000000000000000000002")
	s := placement.New()
	index := uint64(0)
	do := func(c placement.Command) {
		t.Helper()
		index++
		if _, err := s.Apply(index, c); err != nil {
			t.Fatal(err)
		}
	}
	do(placement.Command{InitCluster: &placement.InitCluster{ID: "c", Host: placement.Host{ID: here, Name: "h1", Addr: "h1:1"}}})
	do(placement.Command{CreateToken: &placement.CreateToken{ID: "00000001", Hash: fmt.Sprintf("%064d", 1), Expires: 9, Now: 1}})
	do(placement.Command{AddHost: &placement.AddHost{Host: placement.Host{ID: there, Name: "h2", Addr: "h2:1"}, TokenID: "00000001", Now: 1}})
	publish := func(name string, n int) content.Digest {
		id := content.Sum([]byte{byte(n)})
		do(placement.Command{Publish: &placement.Publish{
			Name: name, ID: id, Size: 1, DataBytes: 1, ChunkSize: content.DefaultChunkSize, Shards: 1, Replicas: 1, Publisher: here, At: int64(n),
		}})
		return id
	}
	seq := uint64(0)
	report := func(host placement.HostID, uuid int, needs []placement.Need, images ...string) {
		t.Helper()
		seq++
		d := placement.Domain{
			UUID: fmt.Sprintf("%08d-0000-4000-8000-000000000000", uuid), Name: "vm", State: placement.DomainOff, Manager: placement.ManagedByLibvirt, Needs: needs,
		}
		if len(images) > 0 {
			d.Disks = []placement.Disk{{Target: "vda", Chain: images}}
		}
		do(placement.Command{ReportDomains: &placement.ReportDomains{Host: host, Seq: seq, Domains: []placement.Domain{d}}})
	}
	pinned := map[content.Digest]bool{}
	var seenHere []placement.Domain
	u := &InUse{
		Self: here, Store: "/data/store", Seen: func() []placement.Domain { return seenHere }, View: func(f func(*placement.State)) { f(s) },
		Pin: func(id content.Digest) func() { pinned[id] = true; return func() { delete(pinned, id) } },
	}
	want := func(what string, ids ...content.Digest) {
		t.Helper()
		u.Update()
		if got := slices.Collect(maps.Keys(pinned)); len(got) != len(ids) || slices.ContainsFunc(ids, func(id content.Digest) bool { return !pinned[id] }) {
			t.Errorf("%s: %d are pinned, want %d", what, len(got), len(ids))
		}
	}

	old, other, image := publish("a", 1), publish("b", 2), publish("c", 3)
	report(there, 1, []placement.Need{{Name: "b"}})
	want("what another host needs")
	report(here, 2, []placement.Need{{Name: "a"}}, "/images/vm.qcow2", "/data/store/files/"+image.Hex()+"/data")
	want("a need and an image", old, image)
	newest := publish("a", 4)
	want("a newer version, of what was started with an older one", old, newest, image)
	report(here, 2, []placement.Need{{Name: "b", ID: other.String()}, {Name: "gone"}})
	want("another need", other)
	do(placement.Command{ReportDomains: &placement.ReportDomains{Host: here, Seq: 99, Gone: []string{"00000002-0000-4000-8000-000000000000"}}})
	want("no domain")
	seenHere = []placement.Domain{{UUID: "00000003-0000-4000-8000-000000000000", Disks: []placement.Disk{
		{Target: "vda", Chain: []string{"/data/store/files/" + image.Hex() + "/data"}},
	}}}
	do(placement.Command{RemoveFile: &placement.RemoveFile{Name: "c"}})
	want("an image of a domain that the catalogue has not heard of, and which was removed", image)
}

// seen is a source that sees what a test makes it see.
type seen struct {
	list  []placement.Domain
	known bool
}

func (s seen) Domains() ([]placement.Domain, bool) { return s.list, s.known }
func (s seen) Changed() <-chan struct{}            { return nil }

// TestPicture: of a domain that both see libvirt's word counts, and of who knows nothing yet nothing is concluded.
func TestPicture(t *testing.T) {
	bare := unmanagedDomain(qmp.Guest{UUID: "00000001-0000-4000-8000-000000000000", Name: "vm", Status: "paused", Disks: []qmp.Disk{
		{Target: "vda", Chain: []string{"/a.qcow2", "nbd://x", "/b.raw"}}, {Target: "net", Chain: []string{"nbd://y"}},
	}})
	if err := bare.Validate(); err != nil || bare.State != placement.DomainPaused || len(bare.Disks) != 1 || !slices.Equal(bare.Disks[0].Chain, []string{"/a.qcow2", "/b.raw"}) {
		t.Errorf("a QEMU becomes %+v: %v", bare, err)
	}
	managed := bare
	managed.Manager, managed.State = placement.ManagedByLibvirt, placement.DomainRunning
	d := NewDomains(DomainsConfig{Sources: map[string]DomainSource{
		placement.ManagedByQMP: seen{[]placement.Domain{bare}, true}, placement.ManagedByLibvirt: seen{[]placement.Domain{managed}, true},
	}})
	if list, _ := d.picture(); list[bare.UUID].Manager != placement.ManagedByLibvirt {
		t.Errorf("shown as %+v", list[bare.UUID])
	}
	d.cfg.Sources[placement.ManagedByLibvirt] = seen{nil, false}
	if list, known := d.picture(); known[placement.ManagedByLibvirt] || !known[placement.ManagedByQMP] || len(list) != 1 {
		t.Errorf("known: %v, %d domains", known, len(list))
	}
	delete(d.cfg.Sources, placement.ManagedByLibvirt)
	if _, known := d.picture(); !known[placement.ManagedByLibvirt] {
		t.Error("what a host said of libvirt's domains stays although it has none any more")
	}
	if _, known := NewUnmanaged(qmp.New(qmp.Config{})).Domains(); known {
		t.Error("the unmanaged are known before they were looked for")
	}
}
