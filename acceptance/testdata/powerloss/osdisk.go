package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// dataDisk stands in for that of cmd/virtswarmd/osdisk.go where the acceptance tests build a daemon whose power fails:
// at SIGUSR1 the disk loses what was not synced, and the process ends before it learns of it. VIRTSWARM_ATTIC names a
// directory on the file system of the data, for the disk's own use; without it the disk is the real one.
func dataDisk() disk.FS {
	attic := os.Getenv("VIRTSWARM_ATTIC")
	if attic == "" {
		return disk.OS{}
	}
	seed := uint64(time.Now().UnixNano())
	err := os.RemoveAll(attic)
	if err != nil {
		fail("begin", seed, err)
	}
	fault, err := disktest.NewFault(disk.OS{}, attic, seed)
	if err != nil {
		fail("begin", seed, err)
	}
	off := make(chan os.Signal, 1)
	signal.Notify(off, syscall.SIGUSR1)
	go func() {
		<-off
		fault.PowerOffThen(func(err error) {
			if err != nil {
				fail("end", seed, err)
			}
			fmt.Fprintf(os.Stderr, "the power is off, seed %d\n", seed)
			os.Exit(0)
		})
	}()
	return fault
}

func fail(what string, seed uint64, err error) {
	fmt.Fprintf(os.Stderr, "cannot %s a disk that loses its power, seed %d: %v\n", what, seed, err)
	os.Exit(3)
}
