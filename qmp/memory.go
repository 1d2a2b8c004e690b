package qmp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// memoryID is the device that PlugMemory plugs.
	memoryID = "virtswarm-shm"
	// minMemory is the least that it has, in bytes: a page.
	minMemory = 4 << 10
	// maxMemory is the most.
	maxMemory = 1 << 30
)

// busHint says what to do when a guest has no place for a device.
const busHint = "no bus of this machine takes one more device: start QEMU with -device pcie-root-port,id=port0,chassis=1 " +
	"-device pcie-pci-bridge,id=pci0,bus=port0 (q35), or unplug something"

// PlugMemory plugs the file at path, which is absolute, into a guest as an ivshmem-plain device of size bytes: a power
// of two from 4 KiB to 1 GiB, for QEMU aborts, guest and all, when a PCI BAR has another size. QEMU makes the file if
// there is none, with mode 0644 and as the user that Owner tells; one that is there must be at least as large. Nobody
// ever removes it but the caller. The bus is a PCI bridge with an id that has room, else a free port, else QEMU's
// choice.
//
// The device is a 'master': QEMU does not refuse to migrate or save the guest, but see Plug for what a migration needs.
// Errors are those of Plug.
func (w *Watcher) PlugMemory(ctx context.Context, uuid, path string, size int64) error {
	if !filepath.IsAbs(path) || len(path) > maxText || size < minMemory || size > maxMemory || size&(size-1) != 0 {
		return fmt.Errorf("plug memory: %w: %d bytes at %.100q; it is an absolute path and a power of two from 4KiB to 1GiB", ErrBadDevice, size, path)
	}
	s, err := w.session(uuid)
	if err != nil {
		return fmt.Errorf("plug memory into guest %s: %w", uuid, err)
	}
	bus, err := s.freeBus(ctx)
	if err != nil {
		return fmt.Errorf("plug memory into guest %s: %w", uuid, err)
	}
	err = w.Plug(ctx, uuid, Device{
		Driver: "ivshmem-plain", ID: memoryID, Bus: bus, Properties: map[string]any{"master": true},
		Backend: &Backend{
			Type: "memory-backend-file", Link: "memdev", Properties: map[string]any{"mem-path": path, "size": size, "share": true},
		},
	})
	var no *refusal
	if bus == "" && errors.As(err, &no) && (strings.Contains(no.Desc, "hotplugging") || strings.Contains(no.Desc, "no slot")) {
		return fmt.Errorf("%w: %s", err, busHint)
	}
	return err
}

// UnplugMemory unplugs what PlugMemory plugged from a guest, as Unplug does. The file stays, and nobody but the caller
// needs its path.
func (w *Watcher) UnplugMemory(ctx context.Context, uuid, _ string) error {
	return w.Unplug(ctx, uuid, memoryID)
}

// Owner returns the user and group of the process behind a guest's QMP socket, as they were when it began to listen
// there: a QEMU that changes them later (-runas), or that was given the socket by another process, opens files as
// somebody else. Errors are ErrNoGuest and those of a connection that ends.
func (w *Watcher) Owner(_ context.Context, uuid string) (uid, gid int, err error) {
	s, err := w.session(uuid)
	if err == nil {
		uid, gid, err = s.peer()
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look for owner of guest %s: %w", uuid, err)
	}
	return uid, gid, nil
}

// peer returns the user and group at the other end.
func (s *session) peer() (uid, gid int, err error) {
	conn, ok := s.conn.(syscall.Conn)
	if !ok {
		return 0, 0, fmt.Errorf("ask for peer of socket: it is a %T", s.conn)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrEnded, err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrEnded, err) // it is closed
	}
	if credErr != nil {
		return 0, 0, fmt.Errorf("ask for peer of socket: %w", credErr)
	}
	return int(cred.Uid), int(cred.Gid), nil
}

// lookMemory finds the size of the memory that is plugged.
func (s *session) lookMemory(ctx context.Context, g *Guest) error {
	var backend string
	if err := s.do(ctx, "qom-get", map[string]string{"path": peripheral + "/" + memoryID, "property": "memdev"}, &backend); err != nil {
		return err // refused: there is none
	}
	if id, ok := strings.CutPrefix(backend, objects+"/"); !ok || !isBackend(id, memoryID) {
		return nil // not what PlugMemory plugs
	}
	var size uint64
	if err := s.do(ctx, "qom-get", map[string]string{"path": backend, "property": "size"}, &size); err != nil {
		return err
	}
	if size > math.MaxInt64 {
		return fmt.Errorf("look at shared memory: %w: %d bytes", ErrTooLarge, size)
	}
	g.Shm = int64(size)
	return nil
}

// busKinds are the types of devices with a bus behind them that a device may be plugged into, the preferred ones first,
// and how many devices each bus takes. A port comes last: its window of memory, which the firmware gave it, may be too
// small.
var busKinds = []struct {
	names []string
	room  int
}{
	{[]string{"pcie-pci-bridge", "pci-bridge"}, 31},
	{[]string{"pcie-root-port", "ioh3420", "xio3130-downstream"}, 1},
}

// freeBus returns the id of a bus that a device can be plugged into; "" if there is none with an id. A device's bus has
// the device's id.
func (s *session) freeBus(ctx context.Context) (string, error) {
	left := maxBuses
	for _, kind := range busKinds {
		ids, err := s.list(ctx, peripheral, func(of string) bool {
			for _, name := range kind.names {
				if of == "child<"+name+">" {
					return true
				}
			}
			return false
		})
		if err != nil {
			return "", err
		}
		for _, id := range ids[:min(len(ids), left)] {
			left--
			free, err := s.hasRoom(ctx, peripheral+"/"+id+"/"+id, kind.room)
			if err != nil && !errors.Is(err, ErrRefused) {
				return "", err
			}
			if free {
				return id, nil
			}
		}
	}
	return "", nil
}

// hasRoom reports whether a bus takes devices while the guest runs, and has fewer than room.
func (s *session) hasRoom(ctx context.Context, bus string, room int) (bool, error) {
	var handler string
	if err := s.do(ctx, "qom-get", map[string]string{"path": bus, "property": "hotplug-handler"}, &handler); err != nil || handler == "" {
		return false, err
	}
	devices := 0
	_, err := s.list(ctx, bus, func(of string) bool {
		if strings.HasPrefix(of, "link<") && of != "link<hotplug-handler>" {
			devices++
		}
		return false
	})
	return err == nil && devices < room, err
}
