package guest

import (
	"context"
	"sync"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// bells are the streams of a guest by which it is told to look into its shared memory: one for each process that uses
// it.
type bells struct {
	mu  sync.Mutex
	all map[*stream]chan struct{}
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

// add makes a stream a bell, if it is none yet.
func (b *bells) add(x *stream) (bell chan struct{}, first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bell := b.all[x]; bell != nil {
		return bell, false
	}
	if b.all == nil {
		b.all = map[*stream]chan struct{}{}
	}
	bell = make(chan struct{}, 1)
	b.all[x] = bell
	return bell, true
}

func (b *bells) remove(x *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, x)
}

// bell answers a Bell frame: the first makes the stream a bell, and each has this host look into the guest's memory.
func (x *stream) bell(ctx context.Context, helpers *sync.WaitGroup) error {
	if bell, first := x.guest.bells.add(x); first {
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
