package qmp

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Device is one to plug into a running guest.
type Device struct {
	Driver string // as QEMU names it: ivshmem-plain, …
	ID     string // a letter, then letters, digits, '-', '.' and '_', up to 64 in all; of no other device of the guest
	Bus    string // id of the bus that it is plugged into; "" = QEMU's choice
	// Properties are the others of the driver. Values are what encoding/json makes of them; QEMU wants numbers, booleans
	// and strings as its driver's help says.
	Properties map[string]any
	Backend    *Backend // an object of QEMU that the device needs; nil = none
}

// Backend is an object that lives as long as its device. Its id is made of the device's, so that one who unplugs the
// device needs to know no more.
type Backend struct {
	Type       string         // memory-backend-file, …
	Link       string         // property of the device that names the object: memdev, …
	Properties map[string]any // of the object, as those of Device
}

// newBackend returns an id for a device's backend, another one each time: QEMU keeps the memory of one that was removed
// for a moment (until no vCPU can use its map of the memory any more), and aborts, guest and all, when one of the same
// id takes its place before ("RAMBlock already registered", seen with 7.2).
func newBackend(device string) string {
	var b [backendBytes]byte
	rand.Read(b[:])
	return device + backendInfix + hex.EncodeToString(b[:])
}

const (
	backendInfix = "-backend-"
	backendBytes = 4
)

// isBackend tells whether an object is the backend of a device.
func isBackend(object, device string) bool {
	random, ok := strings.CutPrefix(object, device+backendInfix)
	b, err := hex.DecodeString(random)
	return ok && err == nil && len(b) == backendBytes
}

// Plug plugs a device into a guest; what QEMU refuses leaves nothing behind. It returns when QEMU has the device; the
// guest takes notice in its own time, and a stopped one when it runs again. On a PCI Express machine the bus is a free
// pcie-root-port, for pcie.0 itself takes none. When ctx ends during the call, QEMU may have the device or not: Unplug
// settles it. A guest with memory plugged this way migrates only to a QEMU whose object has the same id: unplug it
// before. Errors are ErrNoGuest, ErrBadDevice, ErrRefused and those of a connection that ends.
func (w *Watcher) Plug(ctx context.Context, uuid string, d Device) error {
	backend := newBackend(d.ID)
	args, err := d.arguments(backend)
	if err != nil {
		return fmt.Errorf("plug device %.100q: %w", d.ID, err)
	}
	s, err := w.session(uuid)
	if err == nil {
		err = s.plug(ctx, &d, backend, args)
	}
	if err != nil {
		return fmt.Errorf("plug device %s into guest %s: %w", d.ID, uuid, err)
	}
	return nil
}

// arguments are those of device_add.
func (d *Device) arguments(backend string) (map[string]any, error) {
	if !validID(d.ID) || d.Driver == "" {
		return nil, fmt.Errorf("%w: driver %.50q, id %.100q", ErrBadDevice, d.Driver, d.ID)
	}
	args := map[string]any{"driver": d.Driver, "id": d.ID}
	if d.Bus != "" {
		args["bus"] = d.Bus
	}
	if b := d.Backend; b != nil {
		if _, taken := args[b.Link]; taken || b.Type == "" || b.Link == "" || b.Link == "bus" {
			return nil, fmt.Errorf("%w: backend of type %.50q, linked by property %.50q", ErrBadDevice, b.Type, b.Link)
		}
		for _, name := range []string{"id", "qom-type"} {
			if _, taken := b.Properties[name]; taken {
				return nil, fmt.Errorf("%w: property %q of its backend has its own place", ErrBadDevice, name)
			}
		}
		args[b.Link] = backend
	}
	for name, value := range d.Properties {
		if _, taken := args[name]; taken || name == "bus" {
			return nil, fmt.Errorf("%w: property %.50q has its own place", ErrBadDevice, name)
		}
		args[name] = value
	}
	return args, nil
}

// validID: what QEMU's id_wellformed accepts, and a limit.
func validID(id string) bool {
	letter := func(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
	if id == "" || len(id) > 64 || !letter(id[0]) {
		return false
	}
	for i := range len(id) {
		if c := id[i]; !letter(c) && (c < '0' || c > '9') && !strings.ContainsRune("-._", rune(c)) {
			return false
		}
	}
	return true
}

func (s *session) plug(ctx context.Context, d *Device, backend string, args map[string]any) error {
	if d.Backend != nil {
		// Those that were left when a guest let go of a device too late; QEMU refuses for one that is in use.
		if err := s.removeBackends(ctx, d.ID); err != nil && !errors.Is(err, ErrRefused) {
			return err
		}
		object := map[string]any{"qom-type": d.Backend.Type, "id": backend}
		maps.Copy(object, d.Backend.Properties)
		if err := s.do(ctx, "object-add", object, nil); err != nil {
			return err
		}
	}
	err := s.do(ctx, "device_add", args, nil)
	if err != nil && d.Backend != nil {
		s.do(ctx, "object-del", map[string]string{"id": backend}, nil) // else the next Plug does it
	}
	s.touch()
	return err
}

// removeBackends removes the backends of a device that is gone, and returns the first error.
func (s *session) removeBackends(ctx context.Context, device string) error {
	names, err := s.list(ctx, objects, func(string) bool { return true })
	if err != nil {
		return err
	}
	left := maxBackends
	for _, name := range names {
		if !isBackend(name, device) || left == 0 {
			continue
		}
		left--
		if delErr := s.do(ctx, "object-del", map[string]string{"id": name}, nil); err == nil {
			err = delErr
		}
	}
	return err
}

// Unplug asks a guest to let go of a device that was plugged, waits until QEMU says that it is gone, and removes its
// backend. What is not there is no error. It is the guest who decides: one that is stopped, or runs nothing that knows
// hot-plugging, does not let go of a PCI device until it runs such a thing or is reset (with ACPI hot-plugging, QEMU's
// default on q35; with that of PCI Express alone, a slot that the guest has not powered up yields at once). When ctx or
// a minute ends first, or the guest says no, the error is ErrKept, and QEMU's request to the guest stays: call Unplug
// again to wait for more, and to remove the backend.
func (w *Watcher) Unplug(ctx context.Context, uuid, id string) error {
	if !validID(id) {
		return fmt.Errorf("unplug device: %w: id %.100q", ErrBadDevice, id)
	}
	s, err := w.session(uuid)
	if err == nil {
		err = s.unplug(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("unplug device %s from guest %s: %w", id, uuid, err)
	}
	return nil
}

// underway is in QEMU's refusal to begin an unplug again; it has no class of its own.
const underway = "already in the process of unplug"

func (s *session) unplug(ctx context.Context, id string) error {
	w := &wait{id: id, end: make(chan error, 1)}
	s.mu.Lock()
	s.waits[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waits, w)
		s.mu.Unlock()
	}()
	err := s.do(ctx, "device_del", map[string]string{"id": id}, nil)
	var no *refusal
	switch {
	case errors.As(err, &no) && no.Class == notFound:
	case err == nil, errors.As(err, &no) && strings.Contains(no.Desc, underway):
		if err := s.released(ctx, w); err != nil {
			return err
		}
	default:
		return err
	}
	s.touch()
	return s.removeBackends(ctx, id)
}

// released waits until the guest has let go of a device. QEMU says so late: the event may be that of an earlier device
// of the same id.
func (s *session) released(ctx context.Context, w *wait) error {
	ctx, cancel := context.WithTimeout(ctx, s.times.unplug)
	defer cancel()
	for {
		select {
		case err := <-w.end:
			if err != nil {
				return err
			}
			names, err := s.list(ctx, peripheral, func(string) bool { return true })
			if err != nil || !slices.Contains(names, w.id) {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrKept, ctx.Err())
		case <-s.done:
			return s.why()
		}
	}
}
