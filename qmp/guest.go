package qmp

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Guest is a QEMU process as its monitor shows it.
type Guest struct {
	Socket string // path of the QMP socket
	// UUID is RFC 9562, lower case. A QEMU without -uuid says all zeros; it gets a name-based one (version 5, SHA-1, in
	// the namespace of URLs) of unix://<Config.Host><socket's path>, which is the same whenever it runs there again.
	UUID   string
	Name   string // that of -name, or the socket's file name without its extension
	Status string // QEMU's RunState: running, paused, prelaunch, inmigrate, postmigrate, shutdown, …
	VCPUs  int
	Memory int64 // bytes, those plugged later included; what a balloon took is not subtracted
	// CID is that of its vsock; 0 = none. The CID of a vhost-user-vsock device is its backend's, which QEMU does not know.
	CID   uint32
	Shm   int64  // bytes of the memory that PlugMemory plugged, which is there now; 0 = none
	Disks []Disk // those that have a medium, in QEMU's order
	// Silent: its process lives and does not answer, or another client has its monitor. The rest is what it said last.
	Silent bool
}

// Disk is a drive of a guest and what its medium is made of.
type Disk struct {
	// Target is the id of the device, else the name of the block backend (virtio0, ide1-cd0), else the device's place in
	// QEMU's object tree.
	Target string
	// Chain is the image, its backing file, that one's, …: paths as QEMU opened them, or what QEMU calls the image where
	// it is no file (nbd://…).
	Chain []string
}

// Equal reports whether both are the same.
func (g Guest) Equal(o Guest) bool {
	return g.Socket == o.Socket && g.UUID == o.UUID && g.Name == o.Name && g.Status == o.Status && g.VCPUs == o.VCPUs &&
		g.Memory == o.Memory && g.CID == o.CID && g.Shm == o.Shm && g.Silent == o.Silent &&
		slices.EqualFunc(g.Disks, o.Disks, func(a, b Disk) bool { return a.Target == b.Target && slices.Equal(a.Chain, b.Chain) })
}

// compare orders guests by UUID, and of those that claim the same one, first the one that is no half of a migration:
// a guest that moves within this host is the process that it runs in.
func (g Guest) compare(o Guest) int {
	return cmp.Or(cmp.Compare(g.UUID, o.UUID), cmp.Compare(g.half(), o.half()), cmp.Compare(g.Socket, o.Socket))
}

func (g Guest) half() int {
	switch g.Status {
	case "inmigrate", "finish-migrate", "postmigrate":
		return 1
	}
	return 0
}

// noUUID is what a QEMU without -uuid says.
const noUUID = "00000000-0000-0000-0000-000000000000"

// parseUUID checks a UUID and returns it in lower case.
func parseUUID(s string) (string, error) {
	hexed := strings.ReplaceAll(s, "-", "")
	b, err := hex.DecodeString(hexed)
	if err != nil || len(b) != 16 || len(s) != len(noUUID) || formatUUID(b) != strings.ToLower(s) {
		return "", fmt.Errorf("%w: UUID %.50q", ErrNotQMP, s)
	}
	return strings.ToLower(s), nil
}

func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// urls is the namespace of URLs, RFC 9562 section 6.6.
var urls = []byte{0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}

// nameUUID returns the version 5 UUID of a URL, RFC 9562 section 5.5.
func nameUUID(url string) string {
	sum := sha1.Sum(append(slices.Clone(urls), url...))
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x50
	b[8] = b[8]&0x3f | 0x80
	return formatUUID(b)
}

// socketName is the name of a guest that has none.
func socketName(path string) string {
	base := filepath.Base(path)
	if name := strings.TrimSuffix(base, filepath.Ext(base)); name != "" {
		return name
	}
	return base
}
