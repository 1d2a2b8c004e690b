package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// readPatience is how long a read waits for the leader's word before it answers from this host's own copy.
	readPatience = 3 * time.Second
	// writePatience bounds a write to the catalogue: several elections, no more.
	writePatience = 15 * time.Second
)

// Staleness says how old an answer may be.
type Staleness struct {
	Stale bool
	// Silence is how long this host has heard no leader, if the answer is stale.
	Silence time.Duration
	// Index is that of the catalogue's last entry that the answer takes into account.
	Index uint64
}

// Ref means a version of a name. A zero ID means the newest.
type Ref struct {
	Name string
	ID   content.Digest
}

// fresh brings this host's view of the catalogue up to date if a leader can be asked, and says whether it could.
func (r *Rooms) fresh(ctx context.Context) Staleness {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	err := r.Node.ReadIndex(ctx)
	s := Staleness{Index: r.Node.AppliedIndex()}
	if err != nil {
		s.Stale = true
		if s.Silence = r.Node.Status().LastContact; s.Silence < 0 {
			s.Silence = time.Since(r.Started)
		}
	}
	return s
}

// lookup finds the version that a caller means, in the newest state that can be had.
func (r *Rooms) lookup(ctx context.Context, ref Ref) (v placement.Version, err error) {
	r.fresh(ctx)
	r.Node.View(func(s *placement.State) { v, err = s.Lookup(ref.Name, ref.ID) })
	return v, reason.Explain(err, ref.Name)
}

// hostNamed finds a host by name or id. No name means this host.
func (r *Rooms) hostNamed(name string) (host placement.Host, err error) {
	if name == "" {
		name = string(r.Self)
	}
	var ok bool
	r.Node.View(func(s *placement.State) { host, ok = s.HostByName(name) })
	if !ok {
		return host, reason.Wrap(reason.NoSuchHost, fmt.Sprintf("%.200q", name), nil)
	}
	return host, nil
}

// host finds a host by its id.
func (r *Rooms) host(id placement.HostID) (host placement.Host, err error) {
	var ok bool
	r.Node.View(func(s *placement.State) { host, ok = s.Host(id) })
	if !ok {
		return host, fmt.Errorf("host %s: %w", id, placement.ErrNoHost)
	}
	return host, nil
}

// write proposes a command on a caller's behalf.
func (r *Rooms) write(ctx context.Context, c placement.Command, subject string) (placement.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	done, err := r.applyOnceFounded(ctx, c)
	if errors.Is(err, placement.ErrNotInitialised) {
		return done, reason.Wrap(reason.NoLeader, subject, err).WithHint("the cluster is being made: repeat it in a moment")
	}
	if errors.Is(err, raft.ErrNoLeader) || errors.Is(err, placement.ErrOutcomeUnknown) {
		return done, reason.Wrap(reason.NoLeader, subject, err).WithHint("it is not known whether the change took effect; " +
			"repeat it when 'virtswarm status' shows a leader: repeating is safe")
	}
	return done, reason.Explain(err, subject)
}

// applyOnceFounded applies a command; in the first second of a cluster it waits until the catalogue takes any.
func (r *Rooms) applyOnceFounded(ctx context.Context, c placement.Command) (placement.Result, error) {
	for {
		done, err := r.Node.Apply(ctx, c)
		if !errors.Is(err, placement.ErrNotInitialised) {
			return done, err
		}
		for founded := false; !founded; {
			changed := r.Node.Changed()
			if r.Node.View(func(s *placement.State) { founded = s.ClusterID() != "" }); founded {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return done, err
			}
		}
	}
}

// hostName gives a host's name; a host that the catalogue does not know goes by its id.
func hostName(s *placement.State, id placement.HostID) string {
	if host, ok := s.Host(id); ok {
		return host.Name
	}
	return string(id)
}
