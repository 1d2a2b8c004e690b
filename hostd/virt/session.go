package virt

import (
	"sync"

	"github.com/virtswarm/virtswarm/placement"
)

// conn is one connection to libvirt. Its methods may be called at the same time; they return when libvirt answers or
// the connection breaks, however long that takes. Their errors wrap the package's where one fits.
type conn interface {
	list() (uuids []string, err error)
	read(uuid string) (reading, error)
	metadata(uuid string) (texts, error)
	setMetadata(uuid string, t texts) error
	plug(uuid, device string) error
	unplug(uuid, alias string) error // begins it; an event says when it is done
	alive() bool                     // asks nobody
	close()
}

// texts are the elements of ours in the two definitions that a domain may have: what runs now, and what its next start
// will be. nil: it has no such definition, or it stays as it is. "": there is none, or it is taken away.
type texts struct{ live, config *string }

func (t texts) equal(o texts) bool {
	same := func(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }
	return same(t.live, o.live) && same(t.config, o.config)
}

// reading is what libvirt says of a domain.
type reading struct {
	xml       string
	state     placement.DomainState
	migration string
	unsure    bool // whether it migrates could not be found out
	forgotten bool // it is off, and libvirt does not know why, as after a restart of its daemon
}

// eventKind is what an event is about.
type eventKind string

const (
	eventLifecycle     eventKind = "lifecycle"
	eventMigration     eventKind = "migration"
	eventJob           eventKind = "job"
	eventDevice        eventKind = "device"
	eventRemoved       eventKind = "device_removed"
	eventRemovalFailed eventKind = "device_removal_failed"
	eventMetadata      eventKind = "metadata"
	eventDisk          eventKind = "disk"
)

var eventKinds = []eventKind{eventLifecycle, eventMigration, eventJob, eventDevice, eventRemoved, eventRemovalFailed, eventMetadata, eventDisk}

// session is a connection with who uses it. The last one closes it, so that no call can outlive what it is made on.
type session struct {
	conn conn
	gone chan struct{} // closed when libvirt hung up
	over func()        // called when it is closed and nobody uses it

	mu     sync.Mutex
	users  int
	closed bool
}

// enter begins to use the connection, unless it is closed.
func (s *session) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.users++
	return true
}

func (s *session) leave() {
	s.mu.Lock()
	s.users--
	last := s.closed && s.users == 0
	s.mu.Unlock()
	if last {
		s.end()
	}
}

// close lets no more calls begin.
func (s *session) close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	last := !closed && s.users == 0
	s.mu.Unlock()
	if last {
		s.end()
	}
}

// end closes the connection, which may have to wait for libvirt.
func (s *session) end() {
	go func() {
		s.conn.close()
		s.over()
	}()
}
