package simtest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
)

// ghostTimeout is how long a ghost waits for an answer.
const ghostTimeout = 5 * time.Second

// ghost is a host that was removed from the cluster and has still its certificate, as whoever has stolen its disk has
// it, and a connection from the time before.
type ghost struct {
	w        *world
	name     string
	identity *pki.Identity
	network  link.Network
	before   *api.Client // over a connection from before the removal, to the machine at
	at       *machine
}

// newGhost takes a machine's certificate from its disk, and calls another machine with it. It is nil if that is not
// possible now.
func (w *world) newGhost(m, other *machine) *ghost {
	identity, err := pki.Load(m.files, filepath.Join(dataDir, "pki"))
	if err != nil {
		w.did("no ghost of %s: %v", m.name, err)
		return nil
	}
	g := &ghost{w: w, name: m.name, identity: identity, network: w.fabric.Plug("ghost"), at: other}
	var once sync.Once
	g.before = api.NewClient(func(ctx context.Context) (conn net.Conn, err error) {
		err = errors.New("the connection has ended")
		once.Do(func() { conn, err = g.dial(ctx, other, link.ProtoHTTP2) })
		return conn, err
	})
	if err := g.ask(g.before); err != nil {
		w.did("%s has no connection to %s before its removal: %v", m.name, other.name, err)
	}
	return g
}

func (g *ghost) dial(ctx context.Context, m *machine, proto string) (net.Conn, error) {
	d := &link.Dialer{Network: g.network, Identity: g.identity, Timeout: ghostTimeout}
	return d.Dial(ctx, m.addr(), proto, "")
}

// ask asks for the hosts of the cluster.
func (g *ghost) ask(client *api.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), ghostTimeout)
	defer cancel()
	_, err := client.Control.Hosts(ctx, &v1.HostsRequest{})
	return err
}

// checkGhosts looks what the ghosts get, now that the whole cluster knows of their removal: nothing.
func (w *world) checkGhosts() {
	for _, g := range w.ghosts {
		w.count("a removed host called")
		if g.ask(g.before) == nil {
			w.violation("host %s answers the removed host %s on an old connection", g.at.name, g.name)
		}
		g.before.Close()
		for _, m := range w.machines {
			client := api.NewClient(func(ctx context.Context) (net.Conn, error) { return g.dial(ctx, m, link.ProtoHTTP2) })
			if g.ask(client) == nil {
				w.violation("host %s answers the removed host %s", m.name, g.name)
			}
			client.Close()
			for _, proto := range []string{link.ProtoWire, link.ProtoRaft} {
				if g.listen(m, proto) {
					w.violation("host %s speaks %s with the removed host %s", m.name, proto, g.name)
				}
			}
		}
	}
}

// listen says whether a machine takes a call of a ghost, and keeps it.
func (g *ghost) listen(m *machine, proto string) bool {
	conn, err := g.dial(context.Background(), m, proto)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(ghostTimeout))
	n, err := conn.Read(make([]byte, 1))
	return n > 0 || errors.Is(err, os.ErrDeadlineExceeded)
}
