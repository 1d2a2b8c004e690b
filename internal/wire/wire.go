// Package wire is the swarm protocol: how two parties tell each other which chunks of which files they hold, and hand
// them over. It frames messages on one ordered byte stream (a TLS connection, a unix socket, a vsock, a shared-memory
// ring), and is symmetrical: either side may ask and serve, at the same time. It never dials, knows nothing of hosts,
// guests or clusters, and leaves to its user who the other side is and what it may read.
//
// It promises that
//   - whatever the other side sends, memory stays bounded by the named limits, and a violation ends the session with a
//     ProtocolError that names the frame, told to the other side by a Goodbye;
//   - control is never stuck behind bulk: a chunk is sent in parts of at most PartSize, with control frames between them;
//   - a buffer lent to Chunk is not touched once Chunk has returned, however it returned;
//   - a side that stops reading, writing or living is noticed within Options.StallTimeout.
//
// It does not verify content: bytes are what the other side says they are until they are compared with their digest.
//
// The format is described byte by byte in docs/wire.md.
package wire

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Version of the protocol that this package speaks.
const Version = 2

// Limits that hold for every session. The ones that the other side must know stand in docs/wire.md; those that may
// differ from session to session are in Options and told by Hello.
const (
	// PartSize is the most of a chunk, manifest or have-snapshot that one frame carries, in bytes: small enough that a
	// control frame waits well below a millisecond on a fast link, large enough that frames cost nothing.
	PartSize = 256 << 10
	// MaxPayload is the longest payload of any frame, in bytes.
	MaxPayload = PartSize
	// MaxManifest is the longest encoded manifest that Manifest accepts, in bytes: that of content.MaxChunks chunks.
	MaxManifest = content.MaxChunks*len(content.Digest{}) + 1<<20
	// MaxHave is how many chunks one Have frame may announce; more become several frames.
	MaxHave = 16 << 10
	// MaxPeers is how many PeerIDs one introduction may hold: enough to find a swarm, which then introduces further.
	MaxPeers = 64
	// MaxMessage is the longest text of a Reject or Goodbye, in bytes of UTF-8.
	MaxMessage = 512
)

// Defaults for the zero values of Options.
const (
	// DefaultRequests fills a 10 Gbit/s path of 50 ms with chunks of 256 KiB.
	DefaultRequests = 256
	// DefaultFiles is far above the number of files that a host fetches from one other host at a time.
	DefaultFiles = 1024
	// DefaultKeepAlive is short enough that stateful firewalls keep the flow.
	DefaultKeepAlive = 10 * time.Second
	// DefaultStallTimeout survives a lost Pong and a few seconds of a frozen host.
	DefaultStallTimeout = 30 * time.Second
)

// Upper bounds of what Options may ask for and a Hello may offer.
const (
	maxRequests = 4096
	maxFiles    = 1 << 16
)

// A Priority orders the chunks that a side asks for, 1 to MaxPriority; the higher goes first. wire passes it on and
// gives it no other meaning.
type Priority uint8

// MaxPriority is the highest.
const MaxPriority Priority = 5

// priorityCodes are the priorities as frames say them. The first four had the codes 1 to 4 before there was a fifth, 5,
// in their middle; a side that does not know it is told the next lower one.
var priorityCodes = [MaxPriority + 1]byte{1: 1, 2: 2, 3: 5, 4: 3, 5: 4}

// code returns what a frame says for p to a side of these features.
func (p Priority) code(features uint64) byte {
	p = min(max(p, 1), MaxPriority)
	if c := priorityCodes[p]; c <= 4 || features&featureFifth != 0 {
		return c
	}
	return priorityCodes[p-1]
}

// priorityOf is the reverse of code; 0 for a code that there is not.
func priorityOf(code byte) Priority {
	for p, c := range priorityCodes {
		if c == code {
			return Priority(p)
		}
	}
	return 0
}

// A PeerID names a party that the swarm may talk to. For hosts it is the host id; wire gives it no meaning.
type PeerID [16]byte

// String returns 32 lower-case hex digits.
func (p PeerID) String() string { return hex.EncodeToString(p[:]) }

// ParsePeerID reads what String writes.
func ParsePeerID(s string) (PeerID, error) {
	var p PeerID
	if len(s) != hex.EncodedLen(len(p)) {
		return p, fmt.Errorf("parse peer id: %q is not 32 hex digits", s)
	}
	if _, err := hex.Decode(p[:], []byte(s)); err != nil {
		return PeerID{}, fmt.Errorf("parse peer id %q: %w", s, err)
	}
	return p, nil
}

// A Handler answers the other side of a session. One handler may serve many sessions.
//
// Manifest and Open are called from several goroutines of a session at once and may block; their ctx ends with the
// session or, for Manifest, when the other side cancels. An error that is (errors.Is) ErrNotFound, ErrNotHeld, ErrBusy
// or ErrSpent, or a *RejectError, reaches the other side as such; of any other it learns no more than CodeInternal, and
// the text is logged here.
//
// Pull, Withdrawn, Have and Peers are called one at a time, in the order of the stream, by the goroutine that reads it:
// they must not block, and of the Session they may call only what does not wait for the other side. (At the end of the
// session Withdrawn is called by Run.)
type Handler interface {
	// Manifest returns the encoded manifest of file. The slice is only read, for as long as the session lasts.
	Manifest(ctx context.Context, s *Session, file content.Digest) ([]byte, error)

	// Open makes the other side a follower of file, who fetches it or only wants to hear: it is told at once which chunks
	// are here and which peers to ask as well (the first MaxPeers), and from now on whatever the owner of the session
	// gives to SendHave and SendPeers. Nothing given to SendHave after Open was called is lost, though it may be told
	// twice. Calls of Open and Closed of a session never overlap, and a file is not opened again before it was closed.
	Open(ctx context.Context, s *Session, file content.Digest, fetching bool) (have content.Bits, peers []PeerID, err error)

	// Closed says that the other side no longer follows file, or that the session ends: it is called exactly once for
	// every Open that succeeded, at the latest before Run returns. Whatever waited for the file has been withdrawn before;
	// what the handler has begun to answer may still be under way.
	Closed(s *Session, file content.Digest)

	// Pull says that the other side wants a chunk. The handler answers when it likes, from another goroutine, by p.Send or
	// p.Reject. At most MaxRequests wait at a time.
	Pull(p *Pull)

	// Withdrawn says that p, which the handler has not begun to answer, need not be: the other side has cancelled it, has
	// closed the file, or is gone.
	Withdrawn(p *Pull)

	// Have says that the other side now holds these chunks (ascending, at least one, each below the count given to
	// Session.Open) of a file that this side opened. It may be called before Session.Open has returned and repeat what
	// is known: learn by union, and be ready for it before calling Open.
	Have(s *Session, file content.Digest, chunks []int)

	// Peers introduces others that follow a file that this side opened; it may come before Session.Open has returned.
	Peers(s *Session, file content.Digest, peers []PeerID)
}

// Options of a session; the zero value is fit for use.
type Options struct {
	// Logger gets what happens to this session; nil is silent.
	Logger hclog.Logger
	// MaxInFlight bounds the requests of this side that wait for an answer, 1..4096. The other side may allow less.
	MaxInFlight int
	// MaxRequests bounds the requests of the other side that wait for an answer, 1..4096; more is a violation.
	MaxRequests int
	// MaxFiles bounds the files that either side has open on the other, 1..65536; more is a violation.
	MaxFiles int
	// KeepAlive is the time without a frame from the other side after which it is pinged.
	KeepAlive time.Duration
	// StallTimeout is the time after which a session ends with ErrStalled because the other side completed no frame or
	// took none. It is also the slowest link: PartSize must pass in it.
	StallTimeout time.Duration
}

// Stats counts what a session has moved so far.
type Stats struct {
	BytesIn, BytesOut   uint64 // of the stream: payload and headers
	ChunksIn, ChunksOut uint64 // answered in full
}
