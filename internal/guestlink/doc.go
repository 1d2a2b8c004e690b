// Package guestlink is the conversation between the agent in a guest and the daemon of its host, over any link: a vsock, a
// shared-memory ring, a unix socket. The guest asks and the host answers: which files there are for it, their bytes, and
// that it wants to publish one. Who the guest is, is not for it to say: the host knows from the link.
//
// It promises that
//   - whatever the other side sends, memory stays bounded by the named limits, and what is not a frame, or not one that
//     may come now, is an error that ends the conversation;
//   - a control message that was torn or mixed up on its way (a ring whose memory was copied while it was in use, as by a
//     live migration or a snapshot) is not taken for one that was sent: each has a checksum;
//   - a side that lives says so at least every [BeatEvery], and one that does not is given up after [StallTimeout].
//
// It does not verify bulk: bytes of files are what the other side says they are until they are compared with their digest.
//
// A conversation is one thing at a time; who wants to ask something while a file is on its way opens another link. The
// format is described byte by byte in docs/guestlink.md.
package guestlink

import "time"

// Version of the protocol that this package speaks.
const Version = 1

// Port is where a host listens on vsock, and what its hybrid sockets are named after.
const Port = 7117

// Limits that hold for every conversation, in bytes unless said otherwise.
const (
	MaxControl = 64 << 10  // the payload of a control frame
	MaxData    = 256 << 10 // the payload of a frame of bulk
	MaxRead    = 64 << 20  // what one Read may ask for, unless it is one chunk
	MaxPing    = 64        // what a Ping carries
	// MaxManifest bounds the encoded manifest that a guest may be sent or push: that of 2^20 chunks.
	MaxManifest = 32<<20 + 64<<10
	MaxMessage  = 512 // the text of an error
)

const (
	// BeatEvery is how long a side is silent at most while it lives and the other waits.
	BeatEvery = 5 * time.Second
	// StallTimeout is how long a side waits for the next bytes, or for its own to be taken.
	StallTimeout = 30 * time.Second
)
