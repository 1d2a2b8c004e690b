package virt

import (
	"cmp"
	"context"
	"encoding/xml"
	"fmt"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// MemoryDir and MemoryPrefix make the file of a domain's guest link: MemoryDir/MemoryPrefix<uuid>. libvirt takes only
// names in MemoryDir for shared memory.
const (
	MemoryDir    = "/dev/shm"
	MemoryPrefix = "virtswarm-"
)

// memoryAlias is by what the device that PlugMemory plugs is known.
const memoryAlias = "ua-virtswarm-shm"

// noSlot is in libvirt's words when a domain has no place for a device.
const noSlot = "No more available PCI slots"

// slotHint says what to do then.
const slotHint = "a q35 machine takes it only on a bridge: add <controller type='pci' model='pcie-to-pci-bridge'/> after the root " +
	"ports (pcie-root-port) with virsh edit, then shut the domain down and start it"

// PlugMemory plugs the file at path, which must be directly in MemoryDir, into a running domain as an ivshmem-plain
// device of size bytes (see ValidateMemory). QEMU makes the file if there is none, with mode 0644 and as the user that
// Owner tells; one that is there it must be able to read and write, and it must not be smaller. Nobody ever removes it
// but the caller.
//
// The device is plugged as a 'master', so that the domain may be migrated, saved and snapshotted with it: libvirt
// refuses these with a 'peer'. What the memory holds goes along, into a file of the same name. What this host writes
// while that happens may be lost, for QEMU knows only of its guest's writes.
//
// Errors wrap ErrBadMemory, ErrNoSlot, ErrNotRunning and those of Plug.
func (w *Watcher) PlugMemory(ctx context.Context, uuid, path string, size int64) error {
	name, err := memoryName(path)
	if err == nil {
		err = ValidateMemory(size)
	}
	if err != nil {
		return fmt.Errorf("plug memory of domain %.80q: %w", uuid, err)
	}
	var device strings.Builder
	device.WriteString("<shmem name='")
	_ = xml.EscapeText(&device, []byte(name))
	fmt.Fprintf(&device, "' role='master'><model type='ivshmem-plain'/><size unit='B'>%d</size><alias name='%s'/></shmem>", size, memoryAlias)
	if err = w.Plug(ctx, uuid, device.String()); err != nil && strings.Contains(err.Error(), noSlot) {
		return fmt.Errorf("%w: %w: %s", ErrNoSlot, err, slotHint)
	}
	return err
}

// UnplugMemory unplugs the file at path from a running domain, whoever plugged it, and waits as Unplug does. The file
// stays.
func (w *Watcher) UnplugMemory(ctx context.Context, uuid, path string) error {
	name, err := memoryName(path)
	if err != nil {
		return fmt.Errorf("unplug memory of domain %.80q: %w", uuid, err)
	}
	x, err := w.live(ctx, "look for memory", uuid)
	if err != nil {
		return err
	}
	m := x.Devices.Memories.of(name)
	if m == nil {
		return nil
	}
	return w.Unplug(ctx, uuid, cmp.Or(m.Alias.Name, memoryAlias))
}

// Owner returns the user and group that the QEMU of a running domain runs as, as libvirt's DAC driver set them: 0 and 0
// if it did not, for then QEMU runs as libvirtd does.
func (w *Watcher) Owner(ctx context.Context, uuid string) (uid, gid int, err error) {
	x, err := w.live(ctx, "look for owner", uuid)
	if err != nil {
		return 0, 0, err
	}
	for _, l := range x.Labels {
		if l.Model != "dac" || l.Label == "" {
			continue
		}
		if uid, gid, err = parseOwner(l.Label); err != nil {
			err = fmt.Errorf("look for owner of domain %s: %w", uuid, err)
		}
		return uid, gid, err
	}
	return 0, 0, nil
}

// live reads what libvirt says of a domain that runs.
func (w *Watcher) live(ctx context.Context, verb, uuid string) (x domainXML, err error) {
	err = w.do(ctx, verb, uuid, func(c conn) error {
		said, err := c.read(uuid)
		switch {
		case err != nil:
			return err
		case !said.state.Active():
			return ErrNotRunning
		case len(said.xml) > maxXML:
			return fmt.Errorf("%d bytes, at most %d: %w", len(said.xml), maxXML, ErrBadXML)
		}
		x = domainXML{}
		if err := xml.Unmarshal([]byte(said.xml), &x); err != nil {
			return fmt.Errorf("%w: %w", ErrBadXML, err)
		}
		return nil
	})
	return x, err
}

// memoryName returns what libvirt calls the shared memory of a file.
func memoryName(path string) (string, error) {
	dir, name := filepath.Split(path)
	if dir != MemoryDir+"/" || name == "" || name == "." || name == ".." {
		return "", fmt.Errorf("%w: %.100q is no file in %s", ErrBadMemory, path, MemoryDir)
	}
	return name, nil
}

// parseOwner reads a DAC label, USER:GROUP. Each is a name, or a number behind a +; a number without one is a name
// first.
func parseOwner(label string) (uid, gid int, err error) {
	owner, group, ok := strings.Cut(label, ":")
	if !ok {
		return 0, 0, fmt.Errorf("label %.80q is not USER:GROUP", label)
	}
	uid, err = ownerID(owner, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return 0, 0, err
	}
	gid, err = ownerID(group, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	if err != nil {
		return 0, 0, err
	}
	return uid, gid, nil
}

func ownerID(text string, look func(name string) (id string, err error)) (int, error) {
	number, forced := strings.CutPrefix(text, "+")
	if !forced {
		if id, err := look(text); err == nil {
			number = id
		} else if _, no := strconv.ParseUint(text, 10, 31); no != nil {
			return 0, fmt.Errorf("look up %.80q: %w", text, err)
		}
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%.80q is no user or group", text)
	}
	return int(n), nil
}

// labelXML is how a security driver confines a domain.
type labelXML struct {
	Model string `xml:"model,attr"`
	Label string `xml:"label"`
}

// memoryPlugXML is a shared memory of a domain.
type memoryPlugXML struct {
	Name  string `xml:"name,attr"`
	Model struct {
		Type string `xml:"type,attr"`
	} `xml:"model"`
	Size  memoryXML `xml:"size"`
	Alias struct {
		Name string `xml:"name,attr"`
	} `xml:"alias"`
}

// bytes returns its size; 0 if it is nil, or none that a guest link can have.
func (m *memoryPlugXML) bytes() int64 {
	if m == nil {
		return 0
	}
	size := m.Size
	size.Unit = cmp.Or(size.Unit, "B") // libvirt's default here, unlike that of a domain's memory
	n := size.bytes()
	if ValidateMemory(n) != nil {
		return 0
	}
	return n
}

// maxMemories bounds the shared memories that are looked at of one domain.
const maxMemories = 16

// memoriesXML are the first shared memories of guest links.
type memoriesXML struct{ list []memoryPlugXML }

// UnmarshalXML implements xml.Unmarshaler; it is called for each shared memory.
func (l *memoriesXML) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	if len(l.list) == maxMemories {
		return d.Skip()
	}
	var x memoryPlugXML
	if err := d.DecodeElement(&x, &start); err != nil {
		return err
	}
	l.list = append(l.list, x)
	return nil
}

// of finds that of a name, nil if there is none that QEMU backs with a file of that name.
func (l *memoriesXML) of(name string) *memoryPlugXML {
	for i := range l.list {
		if m := &l.list[i]; m.Name == name && m.Model.Type == "ivshmem-plain" {
			return m
		}
	}
	return nil
}
