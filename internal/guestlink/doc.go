// Package guestlink is what the agent in a guest and the daemon of its host say to each other, over any link: a vsock,
// a shared-memory ring, a unix socket. Both greet, and from then on the link is a [Session]: many streams, opened by
// either side, each for one purpose. On a stream the opener asks and the other side answers: which files there are,
// their bytes, that it wants to publish one. Who the guest is, is not for it to say: the host knows from the link.
//
// It promises that
//   - whatever the other side sends, memory stays bounded by the named limits (streams times their windows), and what
//     is not a frame, or not one that may come now, is an error that ends the link;
//   - a control message, or a header of the multiplexer, that was torn, mixed up, repeated or lost on its way (a ring
//     whose memory was copied while it was in use, as by a live migration or a snapshot) is not taken for one that was
//     sent: each has a checksum, and each frame of a link its number;
//   - a stream that nobody reads holds up no other, and what is sent goes in pieces, in turn: control waits for no more
//     than one piece of each stream that sends bulk, together [MaxPiece] or little more;
//   - a side that lives says so at least every [BeatEvery], and one that does not is given up after [StallTimeout], in
//     which time that a paused guest, or this very process, stood still does not count.
//
// It does not verify bulk: bytes of files are what the other side says they are until they are compared with their
// digest. It never dials. The multiplexer inside is hashicorp/yamux; docs/decisions/guest-link.md says why, and what is
// around it. The format is described byte by byte in docs/guestlink.md.
package guestlink

import "time"

// Version of the protocol that this package speaks.
const Version = 2

// Port is where a host listens on vsock, and what its hybrid sockets are named after.
const Port = 7117

// Limits that hold for every link, in bytes unless said otherwise.
const (
	MaxControl = 64 << 10  // the payload of a control frame
	MaxData    = 256 << 10 // the payload of a frame of bulk
	MaxPiece   = 128 << 10 // what a stream sends before another's turn comes
	MaxRead    = 64 << 20  // what one Read may ask for, unless it is one chunk
	MaxPing    = 64        // what a Ping carries
	// MaxManifest bounds the encoded manifest that a guest may be sent or push: that of 2^20 chunks.
	MaxManifest = 32<<20 + 64<<10
	MaxMessage  = 512 // the text of an error
	// MaxStreams is how many streams of each side's a link has at a time, counted until both sides have closed them.
	MaxStreams = 32
	// HostWindow and GuestWindow are how many bytes of a stream a side holds that its reader has not taken. A host serves
	// many guests, none of which it trusts.
	HostWindow  = 1 << 20
	GuestWindow = 2 << 20
)

const (
	// BeatEvery is how long a side is silent at most while it lives.
	BeatEvery = 5 * time.Second
	// StallTimeout is how long a side waits for the next bytes of a link, for its own to be taken, and for the other side
	// to close a stream that it has closed.
	StallTimeout = 30 * time.Second
	// StartTimeout is how long a stream may be open and say nothing of what it is for.
	StartTimeout = 10 * time.Second
	// IdleTimeout is how long the host waits on a stream for the next request, or the next bytes of a push, and how long a
	// writer waits for the window of a stream to open: a reader that takes 10 KiB a second is slow, and not dead.
	IdleTimeout = 2 * time.Minute
)
