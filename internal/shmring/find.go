package shmring

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// sysfs is where the kernel shows its devices; tests have one of their own.
var sysfs = "/sys"

// An ivshmem device on the PCI bus.
const (
	ivshmemVendor = "0x1af4"
	ivshmemDevice = "0x1110"
	ivshmemBAR    = "resource2"
)

// ErrNoPlace says that an ivshmem device is here whose memory has no place among this machine's addresses.
var ErrNoPlace = errors.New("the memory of an ivshmem device has no place on its PCI bus: less of it may fit")

// Find returns the paths of the shared memory of this machine's ivshmem devices, in the order of their addresses; none
// is no error. Which of them is a region, Probe says. An ErrNoPlace is returned beside the others: the bridge above a
// device that was plugged in at run time may have room for 1 MiB and no more.
func Find() ([]string, error) {
	devices, err := filepath.Glob(filepath.Join(sysfs, "bus/pci/devices/*"))
	if err != nil {
		return nil, fmt.Errorf("find ivshmem devices: %w", err)
	}
	var found []string
	var errs []error
	for _, d := range devices {
		if !holds(filepath.Join(d, "vendor"), ivshmemVendor) || !holds(filepath.Join(d, "device"), ivshmemDevice) {
			continue
		}
		bar := filepath.Join(d, ivshmemBAR)
		if _, err := os.Stat(bar); err == nil {
			found = append(found, bar)
		} else if errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%s: %w", d, ErrNoPlace))
		}
	}
	return found, errors.Join(errs...)
}

// holds says whether a file of sysfs reads as want. A device may be unplugged at any time: what cannot be read is not
// it.
func holds(path, want string) bool {
	b, err := os.ReadFile(path)
	return err == nil && string(bytes.TrimSpace(b)) == want
}

// enableDevice lets a PCI device without a driver answer to accesses of its memory, which would read as ones otherwise:
// one that was plugged in at run time has not been enabled by any firmware.
func enableDevice(bar string) error {
	enable := filepath.Join(filepath.Dir(bar), "enable")
	if filepath.Base(bar) != ivshmemBAR || !holds(enable, "0") {
		return nil
	}
	if err := os.WriteFile(enable, []byte("1"), 0); err != nil {
		return fmt.Errorf("enable the device of %s: %w", bar, err)
	}
	return nil
}
