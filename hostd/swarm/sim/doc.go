// Command sim runs the swarm's planning core (package plan: Picker, Giver, Uplink, Pace) for up to ten thousand hosts in virtual
// time, and prints how near each scenario comes to the bound T*.
//
// The model is one of coarse packets. A chunk is sent in a few segments; an uplink serves the chunks that hold its slots in
// turn, segment by segment; a segment then passes the trunks of its racks and the receiver's downlink, each a queue of a rate,
// first in, first out. A connection has at most a window of segments on the way, as a TCP connection has, so that a crowded
// downlink or trunk holds its senders up and they turn to others. A fluid model would have to solve for all rates anew with
// every chunk, or flatter: it is the crowding of downlinks that a swarm loses its time by. Single packets would be truer than
// needed by far: what shares a link is chunks.
//
// Every message costs latency, and those to a peer also the time that what is on the way to it needs. Announcements are
// gathered before. Hosts know only whom they were told of, as in hostd/swarm: an opener hears of some of the other followers,
// and those of it; sessions and sources are limited. A chunk's hashing and storing take no time: the network is the model.
// Acknowledgements come at once: with windows above the bandwidth-delay product it makes no difference.
package main
