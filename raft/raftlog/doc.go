// Package raftlog is the Raft log of a host on disk, as hashicorp/raft wants it: entries in a row, of which a prefix is
// dropped when a snapshot has them, and a suffix when the leader has others.
//
// It promises that what was acknowledged is there after a loss of power, and that an entry which is damaged or missing
// is told as [ErrDamaged], at Open or at the read, and never passes for one that was not written. It works on a
// disk.FS, so that a test can fail, tear or lose each single step.
package raftlog
