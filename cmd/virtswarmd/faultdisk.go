//go:build faultdisk

package main

import (
	"os"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// dataDisk is the disk of a daemon that is killed on purpose: with VIRTSWARM_FAULTDISK=lossy in the environment, kill -9
// does what a loss of power does. Only tests build it.
func dataDisk() disk.FS {
	if os.Getenv("VIRTSWARM_FAULTDISK") == "lossy" {
		return disktest.NewLossy(disk.OS{})
	}
	return disk.OS{}
}
