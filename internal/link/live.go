package link

import "sync"

// Live are the connections to other hosts that are open, whichever side dialled: so that those of a host that is no
// member any more can be closed. The zero value has none. It is safe for concurrent use.
type Live struct {
	mu    sync.Mutex
	conns map[*secured]struct{}
}

func (l *Live) add(c *secured) {
	if l == nil || c.peer == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = map[*secured]struct{}{}
	}
	l.conns[c] = struct{}{}
	c.live = l
}

func (l *Live) remove(c *secured) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// CloseUnless closes the connections to the hosts that may not speak to this one any more, and returns how many there
// were. It asks once about each host.
func (l *Live) CloseUnless(may func(hostID string) bool) (closed int) {
	l.mu.Lock()
	byHost := map[string][]*secured{}
	for c := range l.conns {
		byHost[c.peer] = append(byHost[c.peer], c)
	}
	l.mu.Unlock()
	for host, conns := range byHost {
		if may(host) {
			continue
		}
		for _, c := range conns {
			c.under.Conn.Close() // and no farewell, which may wait for a Write that is stuck
			c.Close()
			closed++
		}
	}
	return closed
}
