package hostd

import (
	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// Catalogue calls view with the catalogue as this host has it, of which it must keep nothing. With Raft, it lets a test
// of whole clusters compare hosts.
func (h *Host) Catalogue(view func(*placement.State)) { h.node.View(view) }

// ID is what the catalogue knows this host by.
func (h *Host) ID() placement.HostID { return h.self }

// Raft says what part this host takes in the replication.
func (h *Host) Raft() raft.Status { return h.node.Status() }

// API is what the host does for those who call it.
func (h *Host) API() server.Host { return h.control }
