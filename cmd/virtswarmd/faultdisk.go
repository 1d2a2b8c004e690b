//go:build faultdisk

package main

import (
	"os"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// dataDisk is the disk of a daemon that is killed on purpose: with VIRTSWARM_FAULTDISK=lossy in the environment, kill -9
// does what a loss of power does. Only tests build it.
func dataDisk() disk.FS {
	if os.Getenv("VIRTSWARM_FAULTDISK") == "lossy" {
		return disk.NewLossy(disk.OS{})
	}
	return disk.OS{}
}
