// Package sim drives the state machines of package plan for up to ten thousand hosts in virtual time, and measures how
// near each scenario comes to the bound T*. Each host has the Job, Server, Sessions and Budget that a daemon has; what
// they decide is carried out over modelled connections. Nothing here decides anything of the conversation.
//
// The model is one of coarse packets. A chunk is sent in a few segments; an uplink serves the chunks that hold its
// slots in turn, segment by segment; a segment then passes the trunks of its racks and the receiver's downlink, each a
// queue of a rate, first in, first out. A connection has at most a window of segments on the way, as a TCP connection
// has, so that a crowded downlink or trunk holds its senders up and they turn to others. A fluid model would have to
// solve for all rates anew with every chunk, or flatter: it is the crowding of downlinks that a swarm loses its time
// by. Single packets would be truer than needed by far: what shares a link is chunks.
//
// Every message costs latency, and those to a peer also the time that what is on the way to it needs. Announcements are
// gathered as internal/wire gathers them. A host that vanished answers nothing. Where it flatters: a chunk's hashing
// and storing take no time, acknowledgements come at once, the manifest is known, and the directory names the seeds
// alone.
package sim
