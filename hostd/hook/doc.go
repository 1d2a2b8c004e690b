// Package hook makes files present on this host before a domain starts here, or arrives by a migration: in the store,
// and at the path where the domain expects them. It never talks to libvirt, which waits for it meanwhile.
//
// It promises that a file is at its path whole and verified, or not at all; that what it did not put there itself is
// never overwritten or removed; and that what it put there stays as it is: an image that others have as their backing
// file must not change under them, so a need that names no version is met by the version that is there, however many
// newer ones there are.
package hook
