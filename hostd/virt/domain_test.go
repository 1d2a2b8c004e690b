package virt

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/virtswarm/virtswarm/placement"
)

const (
	someUUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	stub     = `<domain type='qemu'><name>a</name><uuid>` + someUUID + `</uuid>%s</domain>`
)

func disks(xml string) string { return fmt.Sprintf(stub, "<devices>"+xml+"</devices>") }

func chained(chains ...[]string) (list []placement.Disk) {
	for i, c := range chains {
		list = append(list, placement.Disk{Target: "vd" + string(rune('a'+i)), Chain: c})
	}
	return list
}

func TestParseRunningDomain(t *testing.T) {
	text, err := os.ReadFile("testdata/running.xml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDomain(text)
	if err != nil {
		t.Fatal(err)
	}
	want := placement.Domain{
		UUID: "5b0b9ed4-5b0a-4d3f-9a3f-6f0b6d9a1c11", Name: "web-1", Manager: placement.ManagedByLibvirt, VCPUs: 2, Memory: 64 << 20, CID: 3,
		Disks: []placement.Disk{
			{Target: "vda", Chain: []string{"/images/top.qcow2", "/images/mid.qcow2", "/images/base.raw"}},
			{Target: "vdb", Chain: []string{"/dev/vg/data"}},
		},
		Needs: []placement.Need{{Name: "images/base.raw", Path: "/images/base.raw"}},
		Tags:  []string{"db", "web"},
	}
	if !d.Active || !reflect.DeepEqual(d.Domain, want) || len(d.Faults) != 0 {
		t.Errorf("got %+v\nwant %+v", d, want)
	}
	if !reflect.DeepEqual(d.ends, []string{"", "raw"}) {
		t.Errorf("chains end in %q", d.ends)
	}
}

func TestParseDomain(t *testing.T) {
	uuid := placement.Domain{UUID: someUUID, Name: "a", Manager: placement.ManagedByLibvirt}
	with := func(change func(*placement.Domain)) placement.Domain {
		d := uuid
		change(&d)
		return d
	}
	deep := strings.Repeat(`<backingStore type='file'><format type='qcow2'/><source file='/b'/>`, placement.MaxChain) + strings.Repeat(`</backingStore>`, placement.MaxChain)
	tests := map[string]struct {
		text   string
		want   placement.Domain
		faults int
	}{
		"stub":            {fmt.Sprintf(stub, ""), uuid, 0},
		"upper case":      {strings.Replace(fmt.Sprintf(stub, ""), someUUID, strings.ToUpper(someUUID), 1), uuid, 0},
		"bytes":           {fmt.Sprintf(stub, "<memory unit='b'>5</memory>"), with(func(d *placement.Domain) { d.Memory = 5 }), 0},
		"KiB":             {fmt.Sprintf(stub, "<memory>5</memory>"), with(func(d *placement.Domain) { d.Memory = 5 << 10 }), 0},
		"too much":        {fmt.Sprintf(stub, "<memory unit='TiB'>9223372036854775807</memory>"), uuid, 0},
		"strange unit":    {fmt.Sprintf(stub, "<memory unit='pages'>5</memory><vcpu>many</vcpu>"), uuid, 0},
		"vCPUs":           {fmt.Sprintf(stub, "<vcpu current='2'>8</vcpu>"), with(func(d *placement.Domain) { d.VCPUs = 2 }), 0},
		"CID when off":    {disks(`<vsock><cid address='5'/></vsock>`), uuid, 0},
		"memory when off": {disks(`<shmem name='virtswarm-` + someUUID + `'><model type='ivshmem-plain'/><size unit='M'>16</size></shmem>`), uuid, 0},
		"wishes": {fmt.Sprintf(stub, `<metadata><v:domain xmlns:v="urn:virtswarm:domain:1"><v:shm size="16MiB"/><v:push quota="1GiB" prefix="a"/></v:domain></metadata>`), with(func(d *placement.Domain) {
			d.WantShm, d.Push = 16<<20, &placement.Push{Quota: 1 << 30, Prefix: "a"}
		}), 0},
		"bad wishes":       {fmt.Sprintf(stub, `<metadata><v:domain xmlns:v="urn:virtswarm:domain:1"><v:shm size="3MiB"/></v:domain></metadata>`), uuid, 1},
		"empty drive":      {disks(`<disk type='file' device='cdrom'><target dev='sda'/></disk>`), uuid, 0},
		"network":          {disks(`<disk type='network'><source protocol='nfs' name='/export/a'/><target dev='vda'/></disk>`), uuid, 0},
		"pool":             {disks(`<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>`), uuid, 0},
		"relative":         {disks(`<disk><source file='a'/><target dev='vda'/></disk>`), uuid, 0},
		"no target":        {disks(`<disk><source file='/a'/></disk>`), uuid, 1},
		"on a network":     {disks(`<disk><source file='/a'/><backingStore><source protocol='nbd' name='/b'/></backingStore><target dev='vda'/></disk>`), with(func(d *placement.Domain) { d.Disks = chained([]string{"/a"}) }), 0},
		"deep":             {disks(`<disk><source file='/a'/>` + deep + `<target dev='vda'/></disk>`), with(func(d *placement.Domain) { d.Disks = chained(deepChain()) }), 0},
		"many disks":       {disks(strings.Repeat(`<disk/>`, placement.MaxDisks+5)), uuid, 1},
		"bad metadata":     {fmt.Sprintf(stub, `<metadata><v:domain xmlns:v="urn:virtswarm:domain:1"><v:tag>a</v:tag><v:file/></v:domain></metadata>`), uuid, 1},
		"metadata twice":   {fmt.Sprintf(stub, `<metadata><v:domain xmlns:v="urn:virtswarm:domain:1"><v:tag>a</v:tag></v:domain><domain xmlns="urn:virtswarm:domain:1"/></metadata>`), uuid, 1},
		"others' metadata": {fmt.Sprintf(stub, `<metadata><domain><tag>a</tag></domain><v:domain xmlns:v="urn:virtswarm:domain:2"><v:file/></v:domain></metadata>`), uuid, 0},
		"namespace above":  {strings.Replace(fmt.Sprintf(stub, `<metadata><q:domain><q:tag>a</q:tag></q:domain></metadata>`), "<domain", `<domain xmlns:q="urn:virtswarm:domain:1"`, 1), with(func(d *placement.Domain) { d.Tags = []string{"a"} }), 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d, err := ParseDomain([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if !d.Domain.Equal(tt.want) || len(d.Faults) != tt.faults || d.Active {
				t.Errorf("got %+v\nwant %+v and %d faults", d, tt.want, tt.faults)
			}
		})
	}
}

func deepChain() []string {
	chain := []string{"/a"}
	for len(chain) < placement.MaxChain {
		chain = append(chain, "/b")
	}
	return chain
}

func TestParseDomainRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":     "",
		"cut off":     "<domain>",
		"another":     "<network/>",
		"no UUID":     "<domain><name>a</name></domain>",
		"no name":     "<domain><uuid>" + someUUID + "</uuid></domain>",
		"a bad name":  strings.Replace(fmt.Sprintf(stub, ""), "<name>a", "<name>a&#10;b", 1),
		"a long name": strings.Replace(fmt.Sprintf(stub, ""), "<name>a", "<name>"+strings.Repeat("a", placement.MaxDomainName+1), 1),
		"too long":    fmt.Sprintf(stub, strings.Repeat(" ", maxXML)),
	} {
		if d, err := ParseDomain([]byte(text)); !errors.Is(err, ErrBadXML) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

// TestParseDomainReadsLibvirtxml reads what the binding's own schema writes.
func TestParseDomainReadsLibvirtxml(t *testing.T) {
	id := 7
	x := libvirtxml.Domain{
		Type: "kvm", ID: &id, UUID: someUUID, Name: "a",
		Memory: &libvirtxml.DomainMemory{Value: 3, Unit: "GiB"},
		VCPU:   &libvirtxml.DomainVCPU{Value: 4, Current: 3},
		Devices: &libvirtxml.DomainDeviceList{
			VSock: &libvirtxml.DomainVSock{CID: &libvirtxml.DomainVSockCID{Auto: "yes", Address: "77"}},
			Disks: []libvirtxml.DomainDisk{{
				Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "qcow2"},
				Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: "/a"}},
				BackingStore: &libvirtxml.DomainDiskBackingStore{
					Format: &libvirtxml.DomainDiskFormat{Type: "qcow2"},
					Source: &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: "/dev/b"}},
				},
				Target: &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"},
			}},
		},
	}
	text, err := x.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDomain([]byte(text))
	want := placement.Domain{UUID: someUUID, Name: "a", Manager: placement.ManagedByLibvirt, VCPUs: 3, Memory: 3 << 30, CID: 77, Disks: chained([]string{"/a", "/dev/b"})}
	if err != nil || !d.Active || !d.Domain.Equal(want) || d.ends[0] != "qcow2" {
		t.Errorf("got %+v, %v\nwant %+v of %s", d, err, want, text)
	}
}

// TestParseDomainOutlivesSurprises reads what the binding's schema does not know, which is why that is not used.
func TestParseDomainOutlivesSurprises(t *testing.T) {
	text := fmt.Sprintf(stub, "<memory unit='MiB'>1</memory><iothreads>auto</iothreads><devices><disk queues='all'><source file='/a' index='x'/><target dev='vda'/></disk></devices>")
	if err := new(libvirtxml.Domain).Unmarshal(text); err == nil {
		t.Error("libvirtxml takes it by now")
	}
	d, err := ParseDomain([]byte(text))
	if err != nil || d.Memory != 1<<20 || !reflect.DeepEqual(d.Disks, chained([]string{"/a"})) {
		t.Errorf("got %+v, %v", d, err)
	}
}

func FuzzDomainXML(f *testing.F) {
	// Small ones: the fuzzer would spend its time on making large ones smaller.
	f.Add([]byte(`<domain id='4'><name>a</name><uuid>` + someUUID + `</uuid><devices><vsock><cid address='3'/></vsock></devices></domain>`))
	f.Add([]byte(fmt.Sprintf(stub, `<metadata><v:domain xmlns:v="urn:virtswarm:domain:1"><v:file name="a" path="/b"/><v:tag>c</v:tag></v:domain></metadata>`)))
	f.Add([]byte(disks(`<disk><source file='/a'/><backingStore><format type='qcow2'/><source dev='/b'/></backingStore><target dev='vda'/></disk>`)))
	f.Add([]byte(`<domain id='4'><name>a</name><uuid>` + someUUID + `</uuid><devices><shmem name='virtswarm-` + someUUID + `'><model type='ivshmem-plain'/><size unit='M'>16</size></shmem></devices></domain>`))
	f.Add([]byte(fmt.Sprintf(stub, `<metadata><v:domain xmlns:v="urn:virtswarm:domain:1"><v:shm size="16MiB"/><v:push quota="1GiB" prefix="a"/></v:domain></metadata>`)))
	f.Add([]byte(fmt.Sprintf(stub, `<memory unit='KB'>1</memory><vcpu current='1'>2</vcpu>`)))
	f.Add([]byte(disks(`<disk type='block'><driver type='qcow2'/><source dev='/a'/><backingStore/><target dev='vda'/></disk>`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDomain(text)
		if err != nil {
			if !errors.Is(err, ErrBadXML) {
				t.Fatal(err)
			}
			return
		}
		if d.State = placement.DomainOff; d.Validate() != nil || len(d.ends) != len(d.Disks) {
			t.Fatalf("took what is not valid: %+v: %v", d, d.Validate())
		}
	})
}

func BenchmarkParseDomain(b *testing.B) {
	text, err := os.ReadFile("testdata/running.xml")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("virt", func(b *testing.B) {
		for b.Loop() {
			if _, err := ParseDomain(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("libvirtxml", func(b *testing.B) {
		for b.Loop() {
			var x libvirtxml.Domain
			if err := x.Unmarshal(string(text)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
