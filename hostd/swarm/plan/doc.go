// Package plan is the whole conversation of the swarm: whom a host meets, refuses and introduces, what it asks of whom,
// what it sends to whom and when, what it tells, when it gives up. Its state machines are told what happened, with the
// time, and return the actions that follow. Two drivers carry them out, and decide nothing themselves: hostd/swarm over
// sessions of internal/wire, and hostd/swarm/sim over a modelled network.
//
//   - A Job is a fetcher's side of one file. Its Picker chooses what to ask of which source next; a Pace measures each.
//   - A Server is a holder's side of all files. Its Uplink orders what was asked for, and a Giver of each file chooses the
//     chunks for those that leave the choice to it.
//   - Sessions decides who dials whom, and who is let in.
//   - A Budget bounds what is on its way to a host, a Throttle the rate.
//   - An Inquiry asks for a manifest.
//
// Everything here is pure: no I/O, no clock, no goroutine, no randomness. The same events in the same order give the
// same actions. Nothing is safe for concurrent use: whoever owns a machine serialises its calls.
//
// # Words
//
// The terms are BitTorrent's where it has one.
//
//	seed        a host that has all of a file, or gives without fetching
//	fellow      a host that fetches the same file: BitTorrent's leecher
//	holder      a host that has the chunk or file in question, seed or fellow
//	source      a host that a Job asks for chunks
//	candidate   a host that may become a source
//	follower    a host that has opened a file here, and is told which chunks come
//	claim       what one caller wants of a file
//	ask         one chunk that was asked of one source: a request, which names the chunk, or a draw
//	draw        an ask that leaves the choice of the chunk, within a range, to the source
//	grant       the source's choice; a draw is fresh no longer, but a request
//	pull        an ask as its holder sees it
//	fresh       held here, at no follower, and granted to nobody
//	spent       of a seed: given once already
//	rare        held by few sources; the rarest chunks are asked for first
//	twin        the second request for a chunk that another source owes
//	lobby       sessions in which a host without room names others, and hangs up
//	slot        the right to send a chunk; lent to another when it is held for long
//	near        in the same rack; place and distance say where hosts stand
//
// A source owes what it was asked for. A host meets others when it hears of them, connects to candidates, and parts
// with sources. A Job drops a claim; a Server declines a draw and withdraws a pull.
package plan
