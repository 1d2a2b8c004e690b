package wire

import (
	"context"
	"io"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A Session is one end of a conversation. All methods are safe for concurrent use.
type Session struct{}

// NewSession prepares a session over rwc, which it owns from now on: whatever happens, rwc is closed when the session
// ends. Close of rwc must make a blocked Read and Write return. Where rwc has SetReadDeadline, SetWriteDeadline or
// CloseWrite, the session uses them; nobody else may. Nothing is sent or received before Run.
func NewSession(rwc io.ReadWriteCloser, h Handler, o Options) *Session { panic("todo") }

// Run speaks until the session has ended and everything that it started has come to an end. It returns nil if one of
// the sides ended it in peace (Close, or a Goodbye of CodeDone from the other), and otherwise Err. If ctx ends, so does
// the session, by a Goodbye. Run must be called once.
func (s *Session) Run(ctx context.Context) error { panic("todo") }

// Goodbye begins to end the session: the other side is told code and message (cut at MaxMessage), calls in flight fail
// with ErrEnded. It does not wait. Only the first reason to end counts.
func (s *Session) Goodbye(code Code, message string) { panic("todo") }

// Close ends the session in peace and waits until Run is about to return; it must not be called from a Handler.
func (s *Session) Close() error { panic("todo") }

// Done is closed when the session has ended and Err is final.
func (s *Session) Done() <-chan struct{} { panic("todo") }

// Err returns nil until the session begins to end, and then why: ErrClosed, ErrStalled, a *GoodbyeError, a
// *ProtocolError, the error of the stream or that of the context.
func (s *Session) Err() error { panic("todo") }

// Stats returns the counts so far.
func (s *Session) Stats() Stats { panic("todo") }

// Chunk fetches the chunk at index of file, which must be open, into buf[:n]; n is the length that the chunk must have,
// 1..content.MaxChunkSize. Calls of many goroutines share the stream; at most MaxInFlight wait for answers, the others
// wait for their turn. When ctx ends, the other side is told not to bother and Chunk returns at once. The bytes are
// unverified; after an error buf[:n] holds anything.
//
// Errors: ErrNotHeld, ErrNotFound, ErrBusy and others as *RejectError; ErrNotOpen; ErrEnded; that of ctx.
func (s *Session) Chunk(ctx context.Context, file content.Digest, index, n int, buf []byte) error {
	panic("todo")
}

// Manifest fetches the encoded manifest of file, which need not be open: at most MaxManifest bytes, unverified.
func (s *Session) Manifest(ctx context.Context, file content.Digest) ([]byte, error) { panic("todo") }

// Open begins to follow file, which has the given number of chunks: it returns those that the other side holds now and
// peers to ask as well. From now on (even before Open returns) the Handler's Have and Peers hear of changes. A file can
// be open once; errors are as those of Chunk, and ErrOpen.
func (s *Session) Open(ctx context.Context, file content.Digest, chunks int) (content.Bits, []PeerID, error) {
	panic("todo")
}

// CloseFile ends what Open began; the file may be opened again at once. Chunk calls under way may be rejected.
func (s *Session) CloseFile(file content.Digest) { panic("todo") }

// SendHave tells the other side that these chunks of a file that it follows are here now. It does not wait: what
// cannot be sent at once is kept, once a chunk, until it can. Chunks outside the file are left out. It returns
// ErrNotOpen if the other side does not follow file, ErrEnded after the end.
func (s *Session) SendHave(file content.Digest, chunks ...int) error { panic("todo") }

// SendPeers introduces others that follow the file to the other side. It does not wait; of what cannot be sent at once
// the newest MaxPeers are kept. Errors are those of SendHave.
func (s *Session) SendPeers(file content.Digest, peers []PeerID) error { panic("todo") }

// Ping returns the time that a frame takes to the other side and back, in between its bulk.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) { panic("todo") }
