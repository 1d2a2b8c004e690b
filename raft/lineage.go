package raft

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

// Every Raft connection begins with three messages, each a u32 length (little-endian, at most maxHello) and JSON: the
// hello of the host that dialled, the hello of the host that accepted, and the verdict of the one that dialled. Either
// of the last two may refuse, and then no byte of Raft passes. A refusal protects what was acknowledged:
//
//   - Two hosts of different lineages (see placement.Recovery) hold logs of which the same index may mean different
//     things. They may speak only if one of them is merely behind the recovery of the other, and has nothing beyond it.
//   - A data directory that is an old copy has forgotten votes and entries that this host has promised.
const (
	helloVersion = 1
	maxHello     = 64 << 10 // MaxRecoveries take half of that
	helloTimeout = 5 * time.Second
)

type hello struct {
	Version    int                  `json:"hello"`
	Host       placement.HostID     `json:"host"`
	Life       uint64               `json:"life"`   // number of this start of the daemon
	Before     uint64               `json:"before"` // number of the start before, 0 if there was none
	Term       uint64               `json:"term"`   // of the last log entry
	Index      uint64               `json:"index"`  // of the last log entry
	Recoveries []placement.Recovery `json:"recoveries,omitempty"`
	Refusal    *refusal             `json:"refusal,omitempty"` // set: there is no connection
}

// lineage names the lineage, as placement.State.Lineage does.
func (h hello) lineage() string {
	if n := len(h.Recoveries); n > 0 {
		return h.Recoveries[n-1].ID
	}
	return ""
}

// refusal says why hosts do not speak to one another.
type refusal struct {
	Kind TroubleKind `json:"kind"`
	Text string      `json:"text"`
}

func (r *refusal) Error() string { return r.Text }

// Trouble is something between this host and another one that only an operator can mend.
type Trouble struct {
	Kind  TroubleKind
	Host  placement.HostID // the other one
	Text  string           // what is wrong
	Since time.Time
	// LeftOut says of a host that was removed that a recovery did it: it may lead a majority of its own.
	LeftOut bool
	last    time.Time // when it was noticed last
}

// TroubleKind is a stable word for a Trouble.
type TroubleKind string

const (
	// TroubleAhead: one host's log goes beyond that from which the cluster was recovered.
	TroubleAhead TroubleKind = "log-ahead"
	// TroubleApart: two hosts were recovered apart from each other.
	TroubleApart TroubleKind = "recovered-apart"
	// TroubleOldCopy: the other host runs from an old copy of its data directory.
	TroubleOldCopy TroubleKind = "old-copy"
	// TroubleTwin: a second machine runs with the other host's identity.
	TroubleTwin TroubleKind = "twin"
	// TroubleRefused: the other host does not take this one for a member, though it is one in the catalogue here.
	TroubleRefused TroubleKind = "refused"
	// TroubleRemoved: a host that was removed still runs and tries to take part.
	TroubleRemoved TroubleKind = "removed-host"
)

// troubles remembers what is wrong between this host and others.
type troubles struct {
	mu  sync.Mutex
	all map[placement.HostID]Trouble
}

// note remembers a trouble, and reports whether it is a new one.
func (t *troubles) note(host placement.HostID, kind TroubleKind, text string) (isNew bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	old, ok := t.all[host]
	switch {
	case ok && old.Kind == kind:
		old.last = now
		t.all[host] = old
		return false
	case t.all == nil:
		t.all = map[placement.HostID]Trouble{}
	case !ok && len(t.all) >= maxTroubles:
		return true
	}
	t.all[host] = Trouble{Kind: kind, Host: host, Text: text, Since: now, last: now}
	return true
}

func (t *troubles) clear(host placement.HostID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, host)
}

const (
	// maxTroubles bounds the hosts that are remembered.
	maxTroubles = 256
	// knockAfter is how long a host that was removed may take to learn it, and knockFor how long it is remembered after it
	// knocked last.
	knockAfter = 10 * time.Second
	knockFor   = 30 * time.Second
)

// Trouble returns what is wrong between this host and others, ordered by host.
func (n *Node) Trouble() []Trouble {
	t := &n.troubles
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	var all []Trouble
	for _, one := range t.all {
		if one.Kind == TroubleRemoved {
			n.machine.view(func(s *placement.State) { one.LeftOut = s.LeftOut(one.Host) })
			if now.Sub(one.last) > knockFor || !one.LeftOut && one.last.Sub(one.Since) < knockAfter {
				continue
			}
		}
		all = append(all, one)
	}
	all = append(all, n.refusing(now)...)
	slices.SortFunc(all, func(a, b Trouble) int { return cmp.Compare(a.Host, b.Host) })
	return all
}

// refusing returns the members that have been refusing this host for longer than it takes to learn of a removal.
func (n *Node) refusing(now time.Time) (all []Trouble) {
	n.machine.view(func(s *placement.State) {
		for _, h := range s.Hosts() {
			if since, ok := n.refusals.of(h.ID, now, knockAfter, time.Minute); ok {
				all = append(all, Trouble{Kind: TroubleRefused, Host: h.ID, Since: since, Text: fmt.Sprintf(
					"%s does not take this host for a member: it goes on in a cluster without it, after a recovery perhaps", h.Name)})
			}
		}
	})
	return all
}

// hello returns what this host says of itself.
func (n *Node) hello() hello {
	h := hello{Version: helloVersion, Host: n.cfg.ID, Life: n.life, Before: n.lifeBefore}
	select {
	case <-n.ready:
		s := n.stats()
		h.Term, h.Index = s.LastTerm, s.LastIndex
	case <-n.ctx.Done(): // nobody will listen
	}
	n.machine.view(func(s *placement.State) { h.Recoveries = s.Recoveries() })
	return h
}

// judge returns why this host must not speak Raft with another one, nil if it may.
func (n *Node) judge(own, peer hello) *refusal {
	if peer.Version != helloVersion {
		return &refusal{TroubleApart, fmt.Sprintf("host %s speaks version %d of the Raft greeting, this one version %d", peer.Host, peer.Version, helloVersion)}
	}
	var known placement.Host
	var member bool
	n.machine.view(func(s *placement.State) { known, member = s.Host(peer.Host) })
	if member && known.Life > peer.Before && known.Life != peer.Life {
		return &refusal{TroubleOldCopy, fmt.Sprintf("%s runs from an old copy of its data directory: it knows its start %d as the last one before, the cluster knows a start %d",
			known.Name, peer.Before, known.Life)}
	}
	if d := n.director.Load(); d != nil && d.hasTwin(known.ID, peer.Life) {
		return &refusal{TroubleTwin, fmt.Sprintf("a second machine runs with the identity of %s: the one at %s answers", known.Name, known.Addr)}
	}
	return compareLineages(own, peer)
}

// compareLineages returns why two hosts must not speak because of the recoveries that they know of.
func compareLineages(a, b hello) *refusal {
	older, newer := a, b
	if len(a.Recoveries) > len(b.Recoveries) {
		older, newer = b, a
	}
	for i, r := range older.Recoveries {
		if newer.Recoveries[i].ID != r.ID {
			return &refusal{TroubleApart, fmt.Sprintf("hosts %s and %s follow two recoveries that were made apart: by host %s from entry %d and by host %s from entry %d",
				older.Host, newer.Host, r.By, r.Index, newer.Recoveries[i].By, newer.Recoveries[i].Index)}
		}
	}
	if len(older.Recoveries) == len(newer.Recoveries) {
		return nil
	}
	base := newer.Recoveries[len(older.Recoveries)]
	if base.Ahead(older.Term, older.Index) {
		return &refusal{TroubleAhead, fmt.Sprintf("the log of host %s ends with entry %d of term %d, beyond entry %d of term %d, from which host %s recovered the cluster",
			older.Host, older.Index, older.Term, base.Index, base.Term, base.By)}
	}
	return nil
}

// promised returns the log index that a host is known to have had on disk, 0 if this host does not lead.
func (n *Node) promised(id placement.HostID) uint64 {
	d := n.director.Load()
	if d == nil {
		return 0
	}
	joined := d.joined(id)
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.contact[id]; c.joined == joined {
		return c.durable
	}
	return 0
}

// wentBack returns what is wrong with a host that once promised to have more on disk than it says now.
func wentBack(promised uint64, peer hello) *refusal {
	if peer.Index >= promised {
		return nil
	}
	return &refusal{TroubleOldCopy, fmt.Sprintf("host %s runs from an old copy of its data directory: its log ends with entry %d, and it once had entry %d on disk",
		peer.Host, peer.Index, promised)}
}

// hasTwin reports whether a host answers, at the address that the catalogue has of it, and is another start of its
// daemon than the one that asks.
func (d *director) hasTwin(id placement.HostID, life uint64) bool {
	other := func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		c := d.contact[id]
		return c.answered && c.stats.Life != 0 && c.stats.Life != life
	}
	if id == d.n.cfg.ID || !other() {
		return false
	}
	ctx, cancel := context.WithTimeout(d.n.ctx, d.n.cfg.Timing.Election) // it may have ended since it answered
	defer cancel()
	d.poll(ctx, id)
	return other()
}

// refuse notes a refusal. A host that is told to run from an old copy ends: it must not vote.
func (n *Node) refuse(peer placement.HostID, r *refusal, byPeer bool) {
	if n.troubles.note(peer, r.Kind, r.Text) {
		n.logger.Error("hosts cannot take part in one cluster", "peer", peer, "kind", r.Kind, "why", r.Text)
	}
	switch {
	case !byPeer:
	case r.Kind == TroubleOldCopy:
		n.fail(fmt.Errorf("%w: %s", ErrOldCopy, r.Text))
	case r.Kind == TroubleTwin:
		n.fail(fmt.Errorf("%w: %s", ErrTwin, r.Text))
	}
}

// greet begins a connection that this host dialled.
func (n *Node) greet(conn net.Conn, host placement.HostID) (peer hello, err error) {
	own := n.hello()
	// Only who dials may compare: the answer is made after this moment, while the greeting of one that dials may have been
	// on its way while it promised more.
	promised := n.promised(host)
	return peer, n.exchange(conn, func() error {
		if err := writeHello(conn, own); err != nil {
			return err
		}
		if peer, err = readHello(conn); err != nil {
			return err
		}
		if peer.Refusal != nil {
			n.refuse(host, peer.Refusal, true)
			return peer.Refusal
		}
		if own.Refusal = n.judge(own, peer); own.Refusal == nil {
			own.Refusal = wentBack(promised, peer)
		}
		if peer.Host != host {
			own.Refusal = &refusal{TroubleTwin, fmt.Sprintf("host %s answers for host %s", peer.Host, host)}
		}
		return n.conclude(conn, own, peer)
	})
}

// welcome begins a connection that this host accepted.
func (n *Node) welcome(conn net.Conn) (peer hello, err error) {
	return peer, n.exchange(conn, func() error {
		if peer, err = readHello(conn); err != nil {
			return err
		}
		if n.cfg.PeerOf != nil {
			if id, ok := n.cfg.PeerOf(conn); !ok || id != string(peer.Host) {
				return fmt.Errorf("host %q greets as host %s", id, peer.Host)
			}
		}
		own := n.hello()
		own.Refusal = n.judge(own, peer)
		if err := n.conclude(conn, own, peer); err != nil {
			return err
		}
		verdict, err := readHello(conn)
		if err == nil && verdict.Refusal != nil {
			n.refuse(peer.Host, verdict.Refusal, true)
			return verdict.Refusal
		}
		return err
	})
}

// exchange bounds a greeting in time.
func (n *Node) exchange(conn net.Conn, talk func() error) error {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	if err := talk(); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	return conn.SetDeadline(time.Time{})
}

// conclude tells the peer this host's verdict.
func (n *Node) conclude(conn net.Conn, own, peer hello) error {
	if own.Refusal != nil {
		n.refuse(peer.Host, own.Refusal, false)
		return errors.Join(own.Refusal, writeHello(conn, own))
	}
	n.troubles.clear(peer.Host)
	return writeHello(conn, own)
}

func writeHello(w io.Writer, h hello) error {
	p, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(p))), p...))
	return err
}

func readHello(r io.Reader) (h hello, err error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return h, err
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > maxHello {
		return h, fmt.Errorf("a greeting of %d bytes, at most %d", n, maxHello)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return h, err
	}
	if err := json.Unmarshal(p, &h); err != nil {
		return h, fmt.Errorf("read greeting: %w", err)
	}
	if !h.Host.Valid() || len(h.Recoveries) > placement.MaxRecoveries {
		return h, fmt.Errorf("a greeting of host %.80q with %d recoveries", h.Host, len(h.Recoveries))
	}
	return h, nil
}
