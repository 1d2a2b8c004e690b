package virt

import (
	"encoding/xml"
	"fmt"
	"math"
	"strconv"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/placement"
)

// minMemory is the least that a guest link has, in bytes: libvirt keeps the size of a domain's shared memory in MiB.
const minMemory = 1 << 20

// ValidateMemory checks the bytes of shared memory that a guest link is to have: a power of two, 1 MiB to 1 GiB
// (placement.MaxShm), and with that a multiple of any page. QEMU shows it as a PCI BAR, and one of another size makes
// it abort, guest and all (an assertion of pci_register_bar, seen with 7.2), which libvirt does not prevent. The error
// wraps ErrBadMemory.
func ValidateMemory(size int64) error {
	if size < minMemory || size > placement.MaxShm || size&(size-1) != 0 {
		return fmt.Errorf("%w: %d bytes; it is a power of two from 1MiB to 1GiB", ErrBadMemory, size)
	}
	return nil
}

// shm reads <shm size="…"/>.
func (m *metadataXML) shm(attrs []xml.Attr) {
	if m.Shm != 0 {
		m.fail("more than one <shm>")
	}
	m.Shm = m.bytes("shm", "size", attrs)
}

// push reads <push quota="…" prefix="…" guests="…"/>.
func (m *metadataXML) push(attrs []xml.Attr) {
	if m.Push != nil {
		m.fail("more than one <push>")
	}
	m.Push = &placement.Push{Quota: m.bytes("push", "quota", attrs), Prefix: attribute(attrs, "prefix"), Guests: attribute(attrs, "guests")}
}

// bytes reads an attribute that must be there: bytes, or a number with a unit, as 16MiB.
func (m *metadataXML) bytes(element, name string, attrs []xml.Attr) int64 {
	text := attribute(attrs, name)
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > math.MaxInt64 {
		m.fail("<%s %s=%.40q>: it is bytes, as 16777216 or 16MiB", element, name, text)
		return 0
	}
	return int64(n)
}

func attribute(attrs []xml.Attr, name string) string {
	for _, a := range attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// formatBytes writes bytes with the largest unit of which they are a multiple.
func formatBytes(n int64) string {
	for _, u := range []struct {
		name  string
		shift int
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		if n > 0 && n&(1<<u.shift-1) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}
