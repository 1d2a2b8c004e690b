//go:build amd64 || arm64

package shmring

// pause tells the processor n times, n > 0, that this is a loop that waits, so that it leaves the core to its other
// thread and does not guess ahead.
//
//go:noescape
func pause(n uint32)
