package raft

import (
	"context"

	"github.com/virtswarm/virtswarm/placement"
)

// Node is this host's part in the cluster.
type Node struct{}

// Open starts the node from what is in cfg.Dir. ErrDamaged names the file and says what to do.
func Open(cfg Config) (*Node, error) { panic("todo") }

// Apply proposes a command at whatever host and waits until it is committed and applied here. It retries over
// changes of leader until ctx ends, and then returns ErrNoLeader (the outcome may be unknown; commands may be
// repeated safely). An error of the command itself is one of placement's.
func (n *Node) Apply(ctx context.Context, c placement.Command) (placement.Result, error) {
	panic("todo")
}

// HandleForward serves another host's Forwarder.
func (n *Node) HandleForward(ctx context.Context, op string, payload []byte) ([]byte, error) {
	panic("todo")
}

// ReadIndex waits until the local catalogue has everything that was acknowledged before the call, so that a View
// thereafter is linearizable. It returns ErrNoLeader once ctx ends: the caller may show stale state and say so.
func (n *Node) ReadIndex(ctx context.Context) error { panic("todo") }

// View runs f with the local catalogue, which does not change meanwhile. f must not keep it, nor call the Node.
func (n *Node) View(f func(*placement.State)) { panic("todo") }

// Changed returns a channel that is closed when the local catalogue next changes.
func (n *Node) Changed() <-chan struct{} { panic("todo") }

// AppliedIndex is the log index up to which the local catalogue has it.
func (n *Node) AppliedIndex() uint64 { panic("todo") }

// Status returns a moment's view.
func (n *Node) Status() Status { panic("todo") }

// Known reports whether a host may speak to this one: it is in the catalogue or in the latest Raft configuration, or
// nothing is known here yet. It is meant as pki's Allow hook.
func (n *Node) Known(hostID string) bool { panic("todo") }

// Failed returns a channel that is closed when the node cannot go on: Err says why (ErrRemoved, ErrStuck). It still
// has to be closed.
func (n *Node) Failed() <-chan struct{} { panic("todo") }

// Err returns why Failed is closed, nil before.
func (n *Node) Err() error { panic("todo") }

// TransferLeadership makes another voter the leader if this host is; a host that is about to stop calls it so that
// the cluster does not wait for an election. It does nothing at a follower.
func (n *Node) TransferLeadership(ctx context.Context) error { panic("todo") }

// Close stops the node and waits for what it started. What was acknowledged is on disk. It is idempotent.
func (n *Node) Close() error { panic("todo") }
