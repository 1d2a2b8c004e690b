package hostd

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/placement"
)

// Who may speak to this host: the members of the catalogue, which are known by their keys. A certificate alone is not
// enough, for a host that was removed keeps its own, and if it has voted may have kept the key of the authority too.
//
// A host that comes back after a while has not heard of those who joined meanwhile, and one of them may lead. It does
// not believe them either: it asks members that it knows whether they are members.

const (
	// closeEvery is how often connections are compared with the catalogue although it did not change: the Raft
	// configuration follows a moment later.
	closeEvery = time.Second
	// vouchedFor is how long the word of another member counts, or its silence. By then this host has usually caught up.
	vouchedFor = 10 * time.Second
	// vouchPatience bounds one question, maxVouched the hosts that are asked about at a time, maxAskedToVouch those that
	// are asked.
	vouchPatience   = 3 * time.Second
	maxVouched      = 64
	maxAskedToVouch = 5
)

// allow says whether another host may connect to this one, or be connected to.
func (h *Host) allow(id string, signed bool) error {
	node := h.members.Load()
	switch {
	case node != nil && node.Member(id):
		return nil
	case signed && (node == nil || node.Known(id) || node.MayBeNew(id) && h.vouched.are(id)):
		return nil
	}
	return pki.ErrNotMember
}

// mayCall says whether a host may call the API at this moment. One that has been removed may not, though its connection
// is open.
func (h *Host) mayCall(id string) bool {
	known := 0
	h.node.View(func(s *placement.State) { known = len(s.Hosts()) })
	return known == 0 || h.node.Member(id) // before it knows anybody, the handshake has decided
}

// closeRemoved closes the connections of hosts that are no members any more, until ctx ends.
func (h *Host) closeRemoved(ctx context.Context) {
	tick := time.NewTicker(closeEvery)
	defer tick.Stop()
	for {
		changed := h.node.Changed()
		if n := h.live.CloseUnless(func(id string) bool { return h.node.Known(id) || h.node.MayBeNew(id) }); n > 0 {
			h.log.Info("closed the connections of a host that is no member any more", "connections", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// vouchers remembers for which unknown hosts members have vouched. The zero value is for use. It is safe for concurrent
// use.
type vouchers struct {
	once sync.Once
	wake chan string // hosts to ask about

	mu    sync.Mutex
	hosts map[string]voucher
}

type voucher struct {
	member bool
	until  time.Time
}

func (v *vouchers) init() {
	v.once.Do(func() { v.wake, v.hosts = make(chan string, maxVouched), map[string]voucher{} })
}

// are says whether a member has vouched for a host. If none was asked of late, one will be: the host may come again in
// a moment.
func (v *vouchers) are(id string) bool {
	v.init()
	v.mu.Lock()
	defer v.mu.Unlock()
	known, ok := v.hosts[id]
	if ok && time.Now().Before(known.until) {
		return known.member
	}
	select {
	case v.wake <- id:
		v.hosts[id] = voucher{until: time.Now().Add(vouchPatience)} // being asked
	default:
	}
	return false
}

func (v *vouchers) note(id string, member bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	for other, known := range v.hosts {
		if len(v.hosts) >= maxVouched && now.After(known.until) {
			delete(v.hosts, other)
		}
	}
	v.hosts[id] = voucher{member, now.Add(vouchedFor)}
}

// vouch asks members about unknown hosts, until ctx ends.
func (h *Host) vouch(ctx context.Context) {
	h.vouched.init()
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-h.vouched.wake:
			h.vouched.note(id, h.isVouchedFor(ctx, placement.HostID(id)))
		}
	}
}

// isVouchedFor asks members that this host knows, one after another, until one has a catalogue that is current.
func (h *Host) isVouchedFor(ctx context.Context, id placement.HostID) bool {
	var known []placement.Host
	h.node.View(func(s *placement.State) { known = s.Hosts() })
	asked := 0
	for _, member := range known {
		if member.ID == h.self || asked == maxAskedToVouch {
			continue
		}
		asked++
		ctx, cancel := context.WithTimeout(ctx, vouchPatience)
		dialer := &link.Dialer{Network: h.network, Identity: h.id, Live: &h.live}
		members, stale, err := server.Members(ctx, func(ctx context.Context) (net.Conn, error) {
			return dialer.Dial(ctx, member.Addr, link.ProtoHTTP2, string(member.ID))
		})
		cancel()
		if err != nil || stale {
			continue
		}
		for _, m := range members {
			if m == id {
				return true
			}
		}
		return false
	}
	return false
}
