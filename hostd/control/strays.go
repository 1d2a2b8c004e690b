package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/keeper"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// StrayPatience bounds the wait for what one host tells of its strays.
	StrayPatience = 10 * time.Second
	// maxReports bounds the hosts that are asked at a time.
	maxReports = 64
)

// Stray is a content in the store of a host that no entry of the catalogue names.
type Stray struct {
	Host                       placement.HostID
	HostName                   string
	ID                         content.Digest
	Size, DataBytes, HeldBytes int64
	ChunkSize, Shards          int
	Held                       placement.ShardSet
	Since, Until               time.Time // it is kept from one to the other
	// Names, Cluster and Seen are what the host remembers of it: the names that it had, in which cluster, and the index of
	// that cluster's catalogue by which the host knew them. There may be none.
	Names   []StrayName
	Cluster string
	Seen    uint64
}

// StrayName is a name that a stray had.
type StrayName struct {
	Name      string
	Replicas  int
	Guests    string
	Publisher placement.HostID
	At        int64 // when it was published, Unix seconds
	Index     uint64
}

// NameList gives the names alone.
func (s *Stray) NameList() (names []string) {
	for _, n := range s.Names {
		names = append(names, n.Name)
	}
	return names
}

// Here lists the strays of this host, ordered by id. With hold they are kept for a while from now on, whatever their
// time.
func (t *Strays) Here(ctx context.Context, hold bool) ([]Stray, error) {
	wait, cancel := context.WithTimeout(ctx, StrayPatience)
	defer cancel()
	if err := t.Keeper.Settled(wait); err != nil {
		return nil, reason.Wrap(reason.NoLeader, t.Name, fmt.Errorf("which contents of its store the catalogue names is not known yet: %w", err))
	}
	var all []Stray
	for _, s := range t.Keeper.Strays(hold) {
		all = append(all, t.describeStray(s))
	}
	return all, nil
}

func (t *Strays) describeStray(s keeper.Stray) Stray {
	m, note := s.File.Manifest(), s.File.Note()
	d := Stray{
		Host: t.Self, HostName: t.Name, ID: s.File.ID(), Size: m.Size(), DataBytes: m.DataBytes(), HeldBytes: s.File.HeldBytes(),
		ChunkSize: m.ChunkSize(), Shards: max(1, m.Shards()), Held: keeper.Held(s.File),
		Since: s.Since, Until: s.Until, Cluster: note.Cluster, Seen: note.Seen,
	}
	for _, n := range note.Names {
		d.Names = append(d.Names, StrayName{
			Name: n.Name, Replicas: n.Replicas, Guests: n.Guests, Publisher: placement.HostID(n.Publisher), At: n.At, Index: n.Index,
		})
	}
	return d
}

// Strays lists the strays of this host, or of all hosts, ordered by host and name. It names the hosts that did not
// answer.
func (t *Strays) Strays(ctx context.Context, everywhere bool) (all []Stray, silent []string, err error) {
	if everywhere {
		all, silent, err = t.all(ctx, false)
	} else {
		all, err = t.Here(ctx, false)
	}
	slices.SortStableFunc(all, func(a, b Stray) int {
		return cmp.Or(cmp.Compare(a.HostName, b.HostName), slices.Compare(a.NameList(), b.NameList()), slices.Compare(a.ID[:], b.ID[:]))
	})
	return all, silent, err
}

// all asks all hosts for their strays, and names those that did not answer. A host may tell of what the catalogue
// has named meanwhile: that is left out.
func (t *Strays) all(ctx context.Context, hold bool) (all []Stray, silent []string, err error) {
	if err := t.Node.ReadIndex(ctx); err != nil {
		return nil, nil, reason.Explain(err, "")
	}
	var hosts []placement.Host
	t.Node.View(func(s *placement.State) { hosts = s.Hosts() })
	lists, errs := make([][]Stray, len(hosts)), make([]error, len(hosts))
	free := make(chan struct{}, maxReports)
	var asking sync.WaitGroup
	for i, host := range hosts {
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			if host.ID == t.Self {
				lists[i], errs[i] = t.Here(ctx, hold)
			} else {
				lists[i], errs[i] = t.straysAt(ctx, host, hold)
			}
		})
	}
	asking.Wait()
	for i, host := range hosts {
		if errs[i] != nil {
			t.Logger.Debug("a host does not tell its strays", "host", host.Name, "error", errs[i])
			silent = append(silent, host.Name)
		}
	}
	t.Node.View(func(s *placement.State) {
		for _, stray := range slices.Concat(lists...) {
			if _, named := s.Content(stray.ID); !named {
				all = append(all, stray)
			}
		}
	})
	return all, silent, ctx.Err()
}

func (t *Strays) straysAt(ctx context.Context, host placement.Host, hold bool) ([]Stray, error) {
	if !host.State.Serves() {
		return nil, errDown(host)
	}
	ctx, cancel := context.WithTimeout(ctx, StrayPatience)
	defer cancel()
	return t.Peers.Strays(ctx, host, hold)
}
