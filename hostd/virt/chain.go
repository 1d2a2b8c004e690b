package virt

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/placement"
)

// A domain's definition mostly names only the image that it writes to. What that stands on is said in its header, and
// read from there, because asking qemu-img would make a process for each image, and would open whatever a guest wrote
// into its image as the name of the next: a file of others, or a host on the network. Here a name is only a name until
// it is an image of the format that the one above says, and a raw image has no header, whatever its first bytes are.

const (
	chainPatience = 2 * time.Second // a chain that is not read by then, because its storage hangs, is the image alone
	maxHanging    = 4               // reads of chains that hang; no chain is read while there are so many

	qcowMagic     = "QFI\xfb"
	qcowHead      = 4096 // what is read of a header; its extensions are far shorter
	qcowMaxName   = 1023 // bytes of a backing file's name, as the format has it
	qcowExtFormat = 0xe2792aca
)

// headers reads image headers, and does not wait for storage that hangs.
type headers struct{ slots chan struct{} }

func newHeaders() *headers { return &headers{slots: make(chan struct{}, maxHanging)} }

// complete extends the chains of a definition by what libvirt does not say.
func (h *headers) complete(d *Definition) {
	for i, format := range d.ends {
		if format != "qcow2" {
			continue
		}
		disk := &d.Disks[i]
		for _, path := range h.below(disk.Chain[len(disk.Chain)-1]) {
			longer := placement.Disk{Target: disk.Target, Chain: append(disk.Chain, path)}
			if err := d.with(longer).Validate(); err != nil {
				d.leaveOut(err)
				break
			}
			disk.Chain = longer.Chain
		}
	}
}

// below returns the images that a qcow2 image stands on.
func (h *headers) below(image string) []string {
	select {
	case h.slots <- struct{}{}:
	default:
		return nil
	}
	read := make(chan []string, 1)
	go func() {
		defer func() { <-h.slots }()
		read <- backingChain(image)
	}()
	patience := time.NewTimer(chainPatience)
	defer patience.Stop()
	select {
	case chain := <-read:
		return chain
	case <-patience.C:
		return nil
	}
}

// backingChain follows a chain of qcow2 images down from one, as far as it is on this host, can be read, and does not
// come back to itself.
func backingChain(image string) (chain []string) {
	for format := "qcow2"; format == "qcow2" && len(chain) < placement.MaxChain; {
		name, below, err := backingFile(image)
		if err != nil || name == "" {
			break
		}
		name = strings.TrimPrefix(name, "file:")
		if protocol, _, ok := strings.Cut(name, ":"); ok && !strings.Contains(protocol, "/") {
			break // nbd:…, json:…
		}
		if !filepath.IsAbs(name) {
			name = disk.Join(disk.Dir(image), name)
			if plain, err := disk.Plain(name); err == nil { // as QEMU's kernel takes it
				name = plain
			}
		}
		if slices.Contains(chain, name) {
			break
		}
		chain, image, format = append(chain, name), name, below
	}
	return chain
}

// backingFile reads from a qcow2 image's header what it stands on, and of which format that is; "" if on nothing, or if
// the format is not said.
func backingFile(image string) (name, format string, err error) {
	f, err := openImage(image)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	return parseQcow(f)
}

// openImage opens a regular file or a block device, and nothing else that could do something at being opened.
func openImage(image string) (*os.File, error) {
	info, err := os.Stat(image)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() && mode&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
		return nil, fmt.Errorf("open image %s: it is neither a file nor a disk", image)
	}
	return os.OpenFile(image, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// parseQcow reads the header of a qcow2 image (QEMU's docs/interop/qcow2.txt). All numbers are big-endian.
//
//	0 magic  4 version (2, 3)  8 offset of the backing file's name (64 bits), 0 = none  16 its length
//	100 length of the header, from version 3 on; in version 2 it is 72
//	then extensions: type, length, data padded to 8 bytes, up to type 0
func parseQcow(r io.ReaderAt) (name, format string, err error) {
	head := make([]byte, qcowHead)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", "", err
	}
	if head = head[:n]; n < 104 || string(head[:4]) != qcowMagic {
		return "", "", fmt.Errorf("read header: not a qcow2 image")
	}
	at, length := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint32(head[16:])
	if at == 0 || length == 0 {
		return "", "", nil
	}
	if at > 2<<20 || length > qcowMaxName {
		return "", "", fmt.Errorf("read header: a name of %d bytes at %d", length, at)
	}
	text := make([]byte, length)
	if _, err := r.ReadAt(text, int64(at)); err != nil {
		return "", "", fmt.Errorf("read header: %w", err)
	}
	ext := uint64(72)
	if binary.BigEndian.Uint32(head[4:]) >= 3 {
		ext = uint64(binary.BigEndian.Uint32(head[100:]))
	}
	return string(text), qcowFormat(head, ext), nil
}

// qcowFormat finds the format of the backing file among the extensions that begin at an offset.
func qcowFormat(head []byte, at uint64) string {
	for at+8 <= uint64(len(head)) {
		kind, length := binary.BigEndian.Uint32(head[at:]), uint64(binary.BigEndian.Uint32(head[at+4:]))
		if kind == 0 || at+8+length > uint64(len(head)) {
			break
		}
		if kind == qcowExtFormat {
			return string(head[at+8 : at+8+length])
		}
		at += 8 + (length+7)&^7
	}
	return ""
}
