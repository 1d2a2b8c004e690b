package link

import (
	"context"
	"net"

	"github.com/virtswarm/virtswarm/internal/shmring"
)

// listenShm serves the region at path, which must be there. Whoever needs to say more of a region (whose it is, a bell)
// calls package shmring itself.
func listenShm(path string) (net.Listener, error) {
	l, err := shmring.Listen(path, shmring.Options{})
	if err != nil {
		return nil, err // which names the path; and no *Listener that is nil in an interface
	}
	return l, nil
}

// dialShm calls the host that serves the region at path.
func dialShm(ctx context.Context, path string) (net.Conn, error) {
	c, err := shmring.Dial(ctx, path, shmring.Options{})
	if err != nil {
		return nil, err
	}
	return c, nil
}
