package link

import (
	"context"
	"net"
)

// OS is the network of this machine: TCP and unix sockets.
var OS Network = osNetwork{}

type osNetwork struct{}

func (osNetwork) Listen(ctx context.Context, url string) (net.Listener, error) { panic("todo") }

func (osNetwork) Dial(ctx context.Context, url string) (net.Conn, error) { panic("todo") }

// Memory is a network within the process, for tests: no sockets, so that it works in a testing/synctest bubble. Any
// URL may be listened at, host:0 included. The zero value is not fit for use; see NewMemory.
type Memory struct{}

// NewMemory returns an empty network.
func NewMemory() *Memory { panic("todo") }

// Listen implements Network.
func (m *Memory) Listen(ctx context.Context, url string) (net.Listener, error) { panic("todo") }

// Dial implements Network.
func (m *Memory) Dial(ctx context.Context, url string) (net.Conn, error) { panic("todo") }

// Pipe returns the two ends of a connection within the process: buffered, with deadlines and half-close.
func Pipe() (net.Conn, net.Conn) { panic("todo") }
