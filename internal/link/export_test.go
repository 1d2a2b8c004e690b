package link

import "net"

// What the tests look into; they cannot be in this package, as linktest imports it.
var (
	ErrAnswer = errAnswer
	Secure    = secure
)

// Buffered is what is under TLS.
type Buffered = buffered

// Under returns what is under TLS, or c.
func Under(c net.Conn) net.Conn {
	if s, ok := c.(*secured); ok {
		return s.under.Conn
	}
	return c
}

// Handshakes returns how many handshakes are under way.
func (m *Mux) Handshakes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.handshakes.Len()
}
