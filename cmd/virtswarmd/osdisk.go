package main

import "github.com/virtswarm/virtswarm/internal/disk"

// dataDisk is the disk that the daemon keeps its data on.
func dataDisk() disk.FS { return disk.OS{} }
