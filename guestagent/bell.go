package guestagent

import (
	"context"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// bell is a second link beside one by shared memory, by which either side wakes the other when it sleeps. The first
// works without it, with a few milliseconds of delay after a silence.
type bell struct {
	url    string
	memory *shmring.Conn
	rung   chan struct{} // there is something for the host; holds one
}

// ring has the host told. It does not block.
func (b *bell) ring() {
	select {
	case b.rung <- struct{}{}:
	default:
	}
}

// run passes the rings on, until ctx ends or the bell breaks.
func (b *bell) run(ctx context.Context, a *Agent) {
	c, err := a.dial(ctx, b.url)
	if err != nil {
		a.log().Debug("shared memory has no bell", "link", b.url, "error", err)
		return
	}
	defer c.Close()
	t, err := c.talk(ctx, guestlink.ForBell)
	if err != nil {
		return
	}
	defer t.Close()
	c.helpers.Go(func() {
		b.ring() // it is a bell from the first on
		for {
			select {
			case <-b.rung:
				if t.conn.Send(guestlink.Bell, 0, nil) != nil {
					return
				}
			case <-t.stream.Gone():
				return
			}
		}
	})
	for {
		f, err := t.conn.Receive()
		if err != nil || f.Kind != guestlink.Bell {
			return
		}
		b.memory.Wake()
	}
}
