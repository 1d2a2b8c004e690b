package guest

import (
	"context"
	"sync"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// bells are the links of a guest by which it is told to look into its shared memory: one for each process that uses it.
type bells struct {
	mu  sync.Mutex
	all map[*session]chan struct{}
}

// ring tells the guest, soon. It does not block.
func (b *bells) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, bell := range b.all {
		select {
		case bell <- struct{}{}:
		default: // it will be rung anyway
		}
	}
}

func (b *bells) add(x *session) chan struct{} {
	bell := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = map[*session]chan struct{}{}
	}
	b.all[x] = bell
	return bell
}

func (b *bells) remove(x *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, x)
}

// bell answers a Bell frame: the first makes the link a bell, and each has this host look into the guest's memory.
func (x *session) bell(ctx context.Context, helpers *sync.WaitGroup) error {
	if !x.rings {
		x.rings = true
		bell := x.guest.bells.add(x)
		helpers.Go(func() {
			defer x.guest.bells.remove(x)
			for {
				select {
				case <-bell:
				case <-ctx.Done():
					return
				}
				x.server.metrics.bells.Inc()
				if x.conn.Send(guestlink.Bell, 0, nil) != nil {
					x.end(nil)
					return
				}
			}
		})
	}
	x.server.metrics.bells.Inc()
	x.server.shm.wake(x.guest.uuid)
	return nil
}

// ring rings a domain's bells, if it has some.
func (s *Server) ring(uuid string) {
	s.mu.Lock()
	g := s.guests[uuid]
	s.mu.Unlock()
	if g != nil {
		g.bells.ring()
	}
}

// wake looks into a domain's memory now.
func (m *shm) wake(uuid string) {
	m.mu.Lock()
	r := m.regions[uuid]
	m.mu.Unlock()
	if r != nil {
		r.listener.Wake()
	}
}
