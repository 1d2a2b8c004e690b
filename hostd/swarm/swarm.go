package swarm

import (
	"context"
	"net"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// Swarm is this host's part in the swarms of all files. All methods are safe for concurrent use.
type Swarm struct{}

// New makes a Swarm. It runs until Close.
func New(cfg Config) (*Swarm, error) { panic("todo") }

// Close ends all sessions and jobs and returns once nothing of them runs.
func (s *Swarm) Close() error { panic("todo") }

// Serve speaks with peer, who dialed this host, until one of the sides has enough. It owns conn.
func (s *Swarm) Serve(ctx context.Context, conn net.Conn, peer placement.HostID) error { panic("todo") }

// Manifest fetches the manifest of a file from any of its holders and verifies it.
func (s *Swarm) Manifest(ctx context.Context, file content.Digest) (*content.Manifest, error) {
	panic("todo")
}

// Fetch returns nil once file holds every chunk in want (the zero Bits: all of it). Several calls for one file share a
// job; a chunk's priority is the highest that any of them gives it. progress, which may be nil, is called now and then
// from Fetch's own goroutine, and once at the end.
//
// Errors: ErrNoHolder after PatienceTime without anybody to ask for what is missing; what file.WriteChunk said when this
// host's disk failed; that of ctx; ErrClosed. What was fetched until then stays.
func (s *Swarm) Fetch(ctx context.Context, file File, want content.Bits, prio Priority, progress func(Progress)) error {
	panic("todo")
}
