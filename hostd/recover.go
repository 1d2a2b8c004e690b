package hostd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// surveyPatience bounds the wait for the answers of other hosts.
const surveyPatience = 5 * time.Second

// refusalPatience bounds the wait for a host to refuse this one.
const refusalPatience = 2 * time.Second

// Recovery is a host whose daemon does not run, in a cluster that has lost the majority of its voters. It is not safe
// for concurrent use.
type Recovery struct {
	host *Host
	raft *raft.Offline
}

// Survivor is a member as a Recovery sees it.
type Survivor struct {
	ID      placement.HostID
	Name    string
	Addr    string
	Self    bool
	Voter   bool
	Answers bool   // its daemon runs, or it is this host
	Why     string // why it does not answer
	Refuses bool   // it is up, and does not take this host for a member
	End     raft.LogEnd
}

// OpenRecovery takes this host's data directory and reads what it knows. ErrRunning if its daemon runs.
func OpenRecovery(cfg Config, o Options) (_ *Recovery, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o.defaults(&cfg)
	h := &Host{cfg: cfg, log: o.Logger, network: o.Network, fs: o.FS}
	r := &Recovery{host: h}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if h.id, err = pki.Load(h.fs, h.pkiDir()); err != nil { // first: where there is no host, nothing is written
		return nil, err
	}
	if data, err := raft.HasData(h.fs, h.raftDir()); err != nil || !data {
		return nil, errors.Join(fmt.Errorf("%w: %s holds no Raft log", raft.ErrDamaged, h.raftDir()), err)
	}
	if err := h.takeDirectory(); err != nil {
		return nil, err
	}
	h.self = placement.HostID(h.id.HostID())
	h.peers = peersBy(&link.Dialer{Network: h.network, Identity: h.id, Allow: h.allow})
	r.raft, err = raft.OpenOffline(raft.Config{
		ID: h.self, Dir: h.raftDir(), Forwarder: h.peers, Advertise: "recover:0", FS: h.fs, Logger: h.log.Named("raft"),
	})
	return r, err
}

// Cluster is the id of the cluster.
func (r *Recovery) Cluster() string { return r.host.id.Cluster() }

// Survey asks every member how far its log is, and returns them ordered by name.
func (r *Recovery) Survey(ctx context.Context) []Survivor {
	ctx, cancel := context.WithTimeout(ctx, surveyPatience)
	defer cancel()
	voters := r.raft.Voters()
	var all []Survivor
	r.raft.View(func(s *placement.State) {
		for _, h := range s.Hosts() {
			all = append(all, Survivor{ID: h.ID, Name: h.Name, Addr: h.Addr, Self: h.ID == r.host.self, Voter: slices.Contains(voters, h.ID)})
		}
	})
	slices.SortFunc(all, func(a, b Survivor) int { return strings.Compare(a.Name, b.Name) })
	var asking sync.WaitGroup
	for i := range all {
		s := &all[i]
		if s.Self {
			s.Answers, s.End = true, r.raft.End()
			continue
		}
		asking.Go(func() {
			end, err := r.raft.Ask(ctx, s.ID)
			if s.Answers, s.End = err == nil, end; err == nil {
				return
			}
			if s.Why, s.Refuses = server.Why(err), r.refusedBy(ctx, *s); s.Refuses {
				s.Why = "it does not take this host for a member"
			}
		})
	}
	asking.Wait()
	return all
}

// refusedBy reports whether a host is up and refuses this one's certificate. Nothing is written to it: then its refusal
// arrives, and not the end of a connection that it did not read.
func (r *Recovery) refusedBy(ctx context.Context, s Survivor) bool {
	dialer := &link.Dialer{Network: r.host.network, Identity: r.host.id, Timeout: refusalPatience}
	conn, err := dialer.Dial(ctx, s.Addr, link.ProtoRaft, string(s.ID))
	if err != nil {
		return link.Refused(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(refusalPatience)); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return link.Refused(err)
}

// Recover makes this host the first of a cluster without the hosts that are named. Unless forced, it refuses what would
// lose something that a survivor has, or is not needed; see checkRecovery.
func (r *Recovery) Recover(members []Survivor, without []string, force bool) error {
	gone, err := checkRecovery(members, without, force)
	if err != nil {
		return err
	}
	return r.raft.Recover(gone, time.Now())
}

// checkRecovery finds the hosts that are named and looks whether the cluster may go on without them.
func checkRecovery(members []Survivor, without []string, force bool) (gone []placement.HostID, err error) {
	named := map[placement.HostID]bool{}
	for _, name := range without {
		i := slices.IndexFunc(members, func(s Survivor) bool { return s.Name == name || string(s.ID) == name })
		switch {
		case i < 0:
			return nil, reason.Wrap(reason.NoSuchHost, fmt.Sprintf("%.200q", name), nil).WithHint("name members of the cluster, as they are listed")
		case members[i].Self:
			return nil, reason.Wrap(reason.Usage, name, errors.New("this is the host that is to go on"))
		case !named[members[i].ID]:
			named[members[i].ID] = true
			gone = append(gone, members[i].ID)
		}
	}
	if force {
		return gone, nil
	}
	return gone, objections(members, named)
}

// objections says what would be lost or is not needed.
func objections(members []Survivor, gone map[placement.HostID]bool) error {
	var self Survivor
	voters, living := 0, 0
	for _, s := range members {
		if s.Self {
			self = s
		}
		if s.Voter {
			if voters++; s.Answers {
				living++
			}
		}
	}
	const forced = "; `force` goes on all the same"
	for _, s := range members {
		switch {
		case s.Refuses:
			return reason.Wrap(reason.UnsafeRecovery, s.Name, errors.New("the host is up and does not take this one for a member: the cluster goes on without it")).
				WithHint("let this host join anew: start its daemon with `join` " + s.Addr + " and a token; its stored files stay" + forced)
		case gone[s.ID] && s.Answers:
			return reason.Wrap(reason.UnsafeRecovery, s.Name, errors.New("the host answers: it is not gone")).
				WithHint("stop its daemon for good, or leave it among the survivors" + forced)
		case !gone[s.ID] && !s.Answers:
			return reason.Wrap(reason.UnsafeRecovery, s.Name, fmt.Errorf("the host does not answer, so that nobody knows how far its log is: %s", s.Why)).
				WithHint("start its daemon, or name it with `without` if it is gone for good" + forced)
		case gone[s.ID] || s.Self:
		case s.End.Lineage != self.End.Lineage:
			return reason.Wrap(reason.UnsafeRecovery, s.Name, errors.New("the host follows another recovery of the cluster than this one")).
				WithHint("start the daemon here: it follows by itself, or says why it cannot" + forced)
		case self.End.Behind(s.End):
			return reason.Wrap(reason.UnsafeRecovery, s.Name, fmt.Errorf("its log ends with entry %d of term %d, the one here with entry %d of term %d: what it has beyond that may be acknowledged",
				s.End.Index, s.End.Term, self.End.Index, self.End.Term)).
				WithHint("start the daemon here, stop it on " + s.Name + ", and recover there" + forced)
		}
	}
	if living > voters/2 {
		return reason.Wrap(reason.UnsafeRecovery, "", fmt.Errorf("%d of %d voters answer: the cluster can go on by itself", living, voters)).
			WithHint("start the daemon here, and remove dead hosts with 'virtswarm leave `force` HOST'" + forced)
	}
	return nil
}

// Close gives the directory back.
func (r *Recovery) Close() error {
	var err error
	if r.raft != nil {
		err = r.raft.Close()
	}
	if r.host.peers != nil {
		r.host.peers.Close()
	}
	if r.host.lock != nil {
		err = errors.Join(err, r.host.lock.Close())
	}
	return err
}
