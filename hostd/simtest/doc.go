// Package simtest runs whole daemons in one process and virtual time: several hostd.Hosts on a memory network and disks
// that fail, clients that use them, domains with guests, a nemesis that harms them, and checks over what clients and
// guests saw. It is for tests.
//
// A run is made of its seed: the faults, their order and times, what the clients do, and the keys of the hosts. It
// promises that a run which ends has checked that names are linearizable, and so is what hosts say of domains and what
// was ordered to be held, that no acknowledged content is lost, that every byte that came out is right and went to
// nobody who may not have it, that the copies are made again after the faults, that all hosts hold the same catalogue,
// and that nothing is left running. What it cannot show, and what a seed does not decide, stands in docs/testing.md.
package simtest
