package virt

import (
	"encoding/xml"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/virtswarm/virtswarm/placement"
)

// What is read of a domain's XML, as text: whatever else stands there, of which libvirt knows ever more, cannot make a
// definition unreadable. libvirtxml takes as long, and fails as a whole on one number that it does not expect.

type domainXML struct {
	XMLName  xml.Name  `xml:"domain"`
	ID       string    `xml:"id,attr"` // there only in live XML
	UUID     string    `xml:"uuid"`
	Name     string    `xml:"name"`
	Memory   memoryXML `xml:"memory"`
	VCPU     vcpuXML   `xml:"vcpu"`
	Metadata struct {
		Ours metadataXML `xml:"urn:virtswarm:domain:1 domain"`
	} `xml:"metadata"`
	Devices struct {
		Disks    disksXML    `xml:"disk"`
		Vsock    vsockXML    `xml:"vsock"`
		Memories memoriesXML `xml:"shmem"`
	} `xml:"devices"`
	Labels []labelXML `xml:"seclabel"`
}

type memoryXML struct {
	Unit  string `xml:"unit,attr"`
	Value string `xml:",chardata"`
}

// units are those of libvirt's scaled integers. libvirt itself writes KiB.
var units = map[string]uint64{
	"b": 1, "B": 1, "bytes": 1, "": 1 << 10, "k": 1 << 10, "KiB": 1 << 10, "M": 1 << 20, "MiB": 1 << 20, "G": 1 << 30, "GiB": 1 << 30,
	"T": 1 << 40, "TiB": 1 << 40, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
}

// bytes returns the size, 0 if it is none.
func (m memoryXML) bytes() int64 {
	n, err := strconv.ParseUint(strings.TrimSpace(m.Value), 10, 63)
	if err != nil {
		return 0
	}
	if high, low := bits.Mul64(n, units[m.Unit]); high == 0 && low <= math.MaxInt64 {
		return int64(low)
	}
	return 0
}

type vcpuXML struct {
	Current string `xml:"current,attr"` // there if it is less than the most
	Most    string `xml:",chardata"`
}

// count returns how many there are now, 0 if that is not said.
func (v vcpuXML) count() int {
	text := v.Most
	if v.Current != "" {
		text = v.Current
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

type vsockXML struct {
	CID struct {
		Address string `xml:"address,attr"`
	} `xml:"cid"`
}

// minCID is the first context id that a guest may have; those below are the hypervisor's and the host's.
const minCID = 3

// cid returns the context id, 0 if there is none.
func (v vsockXML) cid() uint32 {
	n, err := strconv.ParseUint(v.CID.Address, 0, 32)
	if err != nil || n < minCID || n == math.MaxUint32 {
		return 0
	}
	return uint32(n)
}

// disksXML are the first disks, and how many more there are.
type disksXML struct {
	list []diskXML
	more int
}

// UnmarshalXML implements xml.Unmarshaler; it is called for each disk.
func (l *disksXML) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	if len(l.list) == placement.MaxDisks {
		l.more++
		return d.Skip()
	}
	var x diskXML
	if err := d.DecodeElement(&x, &start); err != nil {
		return err
	}
	l.list = append(l.list, x)
	return nil
}

type diskXML struct {
	imageXML
	Driver struct {
		Type string `xml:"type,attr"`
	} `xml:"driver"`
	Target struct {
		Dev string `xml:"dev,attr"`
	} `xml:"target"`
}

// imageXML is an image of a disk, down to what it stands on.
type imageXML struct {
	Source struct {
		File string `xml:"file,attr"`
		Dev  string `xml:"dev,attr"`
	} `xml:"source"`
	Format struct {
		Type string `xml:"type,attr"`
	} `xml:"format"`
	Backing *imageXML `xml:"backingStore"` // nil: not said; without a source: none
}

// chain returns the paths of a disk's images as far as libvirt says them and they are on this host. end is the format
// of the last one if libvirt says nothing of what that one stands on.
func (x *diskXML) chain() (paths []string, end string) {
	image, format := &x.imageXML, x.Driver.Type
	for len(paths) < placement.MaxChain {
		path := image.Source.File
		if path == "" {
			path = image.Source.Dev
		}
		if !strings.HasPrefix(path, "/") {
			break
		}
		paths = append(paths, path)
		if image.Backing == nil {
			return paths, format
		}
		image, format = image.Backing, image.Backing.Format.Type
	}
	return paths, ""
}
