package raft

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"slices"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft/raftlog"
)

// Offline is a Raft directory that no Node has open: what a host knows while its daemon does not run. It is not safe
// for concurrent use.
type Offline struct {
	n      *Node
	stores stores
	voters []placement.HostID
	end    LogEnd
}

// LogEnd is how far a host's log is. Of two logs of one lineage, the one that ends with the higher term has everything
// that was acknowledged; at the same term, the longer one.
type LogEnd struct {
	Term, Index uint64
	Lineage     string // see placement.State.Lineage
}

// Behind reports whether another log of the same lineage may hold what this one does not.
func (e LogEnd) Behind(other LogEnd) bool {
	return placement.Recovery{Term: e.Term, Index: e.Index}.Ahead(other.Term, other.Index)
}

// OpenOffline opens the directory of cfg, of which ID, Dir, Advertise and Forwarder are needed, and replays the whole
// log: also entries that were not known here to be committed, as nobody else may be left to know. ErrDamaged names the
// file. It changes nothing but what a crash left half-done.
func OpenOffline(cfg Config) (_ *Offline, err error) {
	cfg.Stream = noStream{}
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	o := &Offline{n: &Node{cfg: cfg, logger: cfg.Logger, machine: newMachine()}}
	o.n.ctx, o.n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	if o.stores, err = o.n.openStores(); err != nil {
		return nil, err
	}
	if o.stores.fresh {
		return nil, raftlog.Damaged(cfg.Dir, "it holds no Raft log")
	}
	_, last := o.n.log.Bounds()
	if err := o.n.replay(o.stores, last); err != nil {
		return nil, err
	}
	return o, o.readEnds()
}

// readEnds finds the end of the log and the latest configuration.
func (o *Offline) readEnds() error {
	metas, err := o.stores.snapshots.List()
	if err != nil {
		return err
	}
	var conf hraft.Configuration
	if len(metas) > 0 {
		o.end.Term, o.end.Index, conf = metas[0].Term, metas[0].Index, metas[0].Configuration
	}
	var l hraft.Log
	first, last := o.n.log.Bounds()
	for i := max(first, o.end.Index+1); i <= last; i++ {
		if err := o.n.log.GetLog(i, &l); err != nil {
			return err
		}
		o.end.Term, o.end.Index = l.Term, l.Index
		if l.Type == hraft.LogConfiguration {
			conf = hraft.DecodeConfiguration(l.Data)
		}
	}
	for _, s := range conf.Servers {
		if s.Suffrage == hraft.Voter {
			o.voters = append(o.voters, placement.HostID(s.ID))
		}
	}
	o.n.machine.view(func(s *placement.State) { o.end.Lineage = s.Lineage() })
	if o.end.Index == 0 {
		return raftlog.Damaged(o.n.cfg.Dir, "its log is empty: this host never followed a cluster")
	}
	return nil
}

// End is how far the log here is.
func (o *Offline) End() LogEnd { return o.end }

// Voters returns the hosts that vote, as far as this host knows.
func (o *Offline) Voters() []placement.HostID { return slices.Clone(o.voters) }

// View runs f with the catalogue at the end of the log.
func (o *Offline) View(f func(*placement.State)) { o.n.machine.view(f) }

// Ask asks a host whose daemon runs how far its log is.
func (o *Offline) Ask(ctx context.Context, host placement.HostID) (LogEnd, error) {
	err := fmt.Errorf("no address of host %s is known", host)
	for _, addr := range o.n.addresses(host) {
		var p []byte
		if p, err = o.n.cfg.Forwarder.Forward(ctx, host, addr, opStats, nil); err != nil {
			continue
		}
		var s stats
		if err = json.Unmarshal(p, &s); err == nil {
			return LogEnd{Term: s.LastTerm, Index: s.LastIndex, Lineage: s.Lineage}, nil
		}
	}
	return LogEnd{}, err
}

// Recover makes this host the only voter of a cluster without the hosts in remove, from the end of the log here. The
// other hosts stay members, follow once this host runs, and are made voters as ever. It takes effect as a whole, with
// one snapshot that becomes durable.
//
// It is not hashicorp/raft's RecoverCluster: there a survivor whose log ends with the very entry from which the cluster
// was recovered goes on with its own catalogue, in which the removed hosts still are, and one that has applied more
// keeps what the others have not. Here the snapshot stands at an index and a term that no log has, so that every
// survivor has to take it; and its lineage makes a survivor that has more refuse it (see hello).
func (o *Offline) Recover(remove []placement.HostID, now time.Time) error {
	term, err := o.stores.votes.GetUint64([]byte(keyTerm))
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	index := o.end.Index + 1
	term = max(term, o.end.Term) + 1
	id := make([]byte, 16)
	rand.Read(id) // never fails
	r := placement.Recovery{ID: hex.EncodeToString(id), Term: o.end.Term, Index: o.end.Index, By: o.n.cfg.ID, At: now.Unix()}
	state := o.n.machine.state
	if err := state.Recover(index, r, remove); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	// A term beyond all that this host has voted in is harmless, should a crash leave nothing but it.
	if err := o.stores.votes.SetUint64([]byte(keyTerm), term); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	var conf hraft.Configuration
	for _, h := range state.Hosts() {
		s := hraft.Server{ID: hraft.ServerID(h.ID), Address: serverAddress(h.ID, h.Addr), Suffrage: hraft.Nonvoter}
		if h.ID == o.n.cfg.ID {
			s.Suffrage = hraft.Voter
		}
		conf.Servers = append(conf.Servers, s)
	}
	sink, err := o.stores.snapshots.Create(1, index, term, conf, index, nil)
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := (picture{state.Freeze()}).Persist(sink); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	// The log ends before the snapshot: if this is cut short, the next start resets it.
	if _, last := o.n.log.Bounds(); last > 0 {
		if err := o.n.log.Reset(); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
	}
	return nil
}

// Close closes the files.
func (o *Offline) Close() error {
	o.n.cancel()
	var errs []error
	if o.n.log != nil {
		errs = append(errs, o.n.log.Close())
	}
	if o.n.votes != nil {
		errs = append(errs, o.n.votes.Close())
	}
	return errors.Join(errs...)
}

// noStream is the Stream of a host that does not speak.
type noStream struct{ Stream }
