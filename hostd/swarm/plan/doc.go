// Package plan decides who sends which chunk of a file to whom, and when. It is the planning core of the swarm, apart from all
// that moves bytes: hostd/swarm carries its decisions out over real sessions, and hostd/swarm/sim under thousands of simulated
// hosts, both with this very code.
//
//   - A Picker is a fetcher's side: what to ask of which source next.
//   - A Giver is a holder's side of one file: which chunk to give to one who asks for a chunk of the holder's choice.
//   - An Uplink is a holder's side of all files: in which order what was asked for is sent.
//   - A Pace measures one source: its rate, and how much to ask of it at a time.
//
// Everything here is a pure data structure: no I/O, no clock (time is passed in), no goroutine, no randomness. The same calls in
// the same order give the same decisions. Nothing is safe for concurrent use: whoever owns one serialises its calls.
package plan
