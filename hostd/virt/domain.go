package virt

import (
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/virtswarm/virtswarm/placement"
)

// maxXML is the most bytes of XML that are parsed. libvirt hands out no longer text.
const maxXML = 4 << 20

// Definition is what a domain's XML says.
type Definition struct {
	// Domain lacks what the XML does not say: its State, and whether it migrates. It is valid otherwise.
	placement.Domain
	// Active says that the XML is of what runs, not of what is defined: only then there are a CID and shared memory.
	Active bool
	// Faults are what was left out of Domain, and why. Those of the metadata wrap ErrBadMetadata.
	Faults []error

	ends []string // for each disk, the format of the last image of its chain, if libvirt does not say that it is the last
}

// ParseDomain reads a domain's XML, live or as it is defined. Only what has no valid UUID or name, or is no XML, is an
// error (ErrBadXML); of all else what is not valid is left out.
//
// Memory is the most that the domain may use, not what its balloon leaves it now. A disk's chain is what libvirt says
// of it: for a domain that is off mostly the image alone. Disks without an image on a path of this host, on the network
// or in a pool, are left out.
func ParseDomain(text []byte) (Definition, error) {
	var x domainXML
	if len(text) > maxXML {
		return Definition{}, fmt.Errorf("parse domain: %d bytes, at most %d: %w", len(text), maxXML, ErrBadXML)
	}
	if err := xml.Unmarshal(text, &x); err != nil {
		return Definition{}, fmt.Errorf("parse domain: %w: %w", ErrBadXML, err)
	}
	d := Definition{Active: x.ID != ""}
	d.Domain = placement.Domain{UUID: strings.ToLower(strings.TrimSpace(x.UUID)), Name: x.Name, State: placement.DomainOff, Manager: placement.ManagedByLibvirt}
	if err := d.Validate(); err != nil {
		return Definition{}, fmt.Errorf("parse domain: %w: %w", ErrBadXML, err)
	}
	d.VCPUs, d.Memory = x.VCPU.count(), x.Memory.bytes()
	if d.Active {
		d.CID = x.Devices.Vsock.cid()
		d.Shm = x.Devices.Memories.of(MemoryPrefix + d.UUID).bytes()
	}
	if n := x.Devices.Disks.more; n > 0 {
		d.leaveOut(fmt.Errorf("%d disks more than %d", n, placement.MaxDisks))
	}
	for i := range x.Devices.Disks.list {
		d.addDisk(&x.Devices.Disks.list[i])
	}
	m, err := x.Metadata.Ours.metadata()
	if err != nil {
		d.leaveOut(err)
	}
	d.Needs, d.Tags, d.WantShm, d.Push = m.Needs, m.Tags, m.Shm, m.Push
	d.State = ""
	return d, nil
}

func (d *Definition) leaveOut(why error) { d.Faults = append(d.Faults, why) }

// addDisk adds a disk if it has a path and is valid.
func (d *Definition) addDisk(x *diskXML) {
	chain, end := x.chain()
	if len(chain) == 0 {
		return
	}
	disk := placement.Disk{Target: x.Target.Dev, Chain: chain}
	if err := d.with(disk).Validate(); err != nil {
		d.leaveOut(err)
		return
	}
	d.Disks, d.ends = append(d.Disks, disk), append(d.ends, end)
}

// with is the domain with one disk, to find out whether that is valid.
func (d *Definition) with(disk placement.Disk) placement.Domain {
	one := d.Domain
	one.State, one.Disks = placement.DomainOff, []placement.Disk{disk}
	return one
}
