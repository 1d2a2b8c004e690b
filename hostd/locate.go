package hostd

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/placement"
)

// Where hosts are stands in the catalogue, which a leader changes. When so many addresses change at once that no leader
// can be elected, hosts must find one another without it: each tells those that it reaches where it is, and is told
// where the others are. An address given with join, and no token, is one more place to ask.

const (
	// locateEvery is how often a host without a leader tells where it is, locatePatience bounds one call.
	locateEvery    = time.Second
	locatePatience = 3 * time.Second
	// locateAtOnce bounds the hosts that are told at a time.
	locateAtOnce = 16
)

// located notes where a member is, and tells where all are.
func (h *Host) located(member placement.HostID, addr string) map[placement.HostID]string {
	h.node.Hint(member, addr)
	return h.locations()
}

// locations says where members are, as far as they have told of late, and where this host is.
func (h *Host) locations() map[placement.HostID]string {
	at := h.node.Hints()
	if at == nil {
		at = map[placement.HostID]string{}
	}
	at[h.self] = h.advertise
	return at
}

// locate tells other hosts where this one is as long as no leader is known, until ctx ends.
func (h *Host) locate(ctx context.Context) {
	tick := time.NewTicker(locateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if h.node.Status().Leader == "" {
			h.tellWhere(ctx)
		}
	}
}

// tellWhere tells all hosts, at all addresses at which they may be, and learns from each.
func (h *Host) tellWhere(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, locatePatience)
	defer cancel()
	free := make(chan struct{}, locateAtOnce)
	var telling sync.WaitGroup
	defer telling.Wait()
	tell := func(addr, expect string) {
		free <- struct{}{}
		telling.Go(func() {
			defer func() { <-free }()
			dialer := &link.Dialer{Network: h.network, Identity: h.id, Allow: h.allow, Live: &h.live}
			at, err := server.Locate(ctx, func(ctx context.Context) (net.Conn, error) {
				return dialer.Dial(ctx, addr, link.ProtoHTTP2, expect)
			}, h.advertise)
			if err != nil {
				h.log.Trace("a host does not hear where this one is", "address", addr, "error", err)
				return
			}
			for id, addr := range at {
				h.node.Hint(id, addr)
			}
		})
	}
	if h.cfg.Join != "" && h.cfg.Join != h.advertise {
		tell(h.cfg.Join, "")
	}
	for _, id := range h.node.Members() {
		for _, addr := range h.node.Addresses(id) {
			tell(addr, string(id))
		}
	}
}
