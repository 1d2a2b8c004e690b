package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/virtswarm/virtswarm/hostd"
	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// pollEvery is the time between two looks at a host: its API has no event for what a cluster waits for.
	pollEvery = 50 * time.Millisecond
	// patience bounds the wait for anything that a cluster does by itself.
	patience = 30 * time.Second
	// hostTimeout is how soon a host that was stopped counts as down: a busy machine must not reach it by itself.
	hostTimeout = 3 * time.Second
)

// hostNames are the hosts of a cluster, in the order in which they join.
var hostNames = []string{"alpha", "beta", "gamma"}

// A cluster is whole hosts of this process: their network is in memory, their files are below dir, and each listens at
// a socket there.
type cluster struct {
	dir    string
	fabric *linktest.Fabric
	hosts  []*member

	stalled *member // whose disk stalls, with what its stall returned
	reached <-chan struct{}
}

// member is one host of a cluster.
type member struct {
	cfg     hostd.Config
	disk    *stallingDisk
	domains *domains
	door    *door
	client  *api.Client
	stop    func() error // nil while it does not run
}

// newCluster makes a cluster without hosts.
func newCluster() (*cluster, error) {
	dir, err := os.MkdirTemp("", "virtswarm") // short: the name of a socket has few bytes
	return &cluster{dir: dir, fabric: linktest.NewFabric()}, err
}

// socket is where a host listens, whether it runs or not.
func (c *cluster) socket(name string) string { return filepath.Join(c.dir, name+".sock") }

// add makes the first n hosts, those that are not there yet. None is started.
func (c *cluster) add(n int) {
	for _, name := range hostNames[len(c.hosts):n] {
		addr, data := name+".example:7117", filepath.Join(c.dir, name)
		c.hosts = append(c.hosts, &member{
			cfg: hostd.Config{
				Data: data, Name: name, Listen: addr, Advertise: addr, Socket: c.socket(name), HostTimeout: hostTimeout,
				Guests: hostd.GuestsConfig{VSock: "off", ShmDir: c.dir},
			},
			disk: newStallingDisk(data), domains: newDomains(), client: api.NewUnixClient(c.socket(name)),
		})
	}
}

// wait starts the first n hosts, each of which waits until it is told of which cluster it shall be.
func (c *cluster) wait(n int) error {
	c.add(n)
	for _, h := range c.hosts {
		h.cfg.FirstStart = "wait"
		if err := c.start(h); err != nil {
			return err
		}
	}
	return nil
}

// form starts the first n hosts, for the first time or over their old stores, as a new cluster, and waits until all
// know it.
func (c *cluster) form(n int) error {
	c.add(n)
	if err := c.start(c.hosts[0]); err != nil {
		return err
	}
	var joining errgroup.Group
	for _, h := range c.hosts[1:] {
		joining.Go(func() error { return c.join(h) })
	}
	if err := joining.Wait(); err != nil {
		return err
	}
	return c.met(n)
}

// join starts a host that is of no cluster.
func (c *cluster) join(h *member) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	token, err := c.hosts[0].client.Control.CreateToken(ctx, &v1.CreateTokenRequest{})
	if err != nil {
		return err
	}
	h.cfg.Join, h.cfg.Token = c.hosts[0].cfg.Advertise, token.GetToken()
	defer func() { h.cfg.Join, h.cfg.Token = "", "" }()
	return c.start(h)
}

// start starts a host.
func (c *cluster) start(h *member) error {
	ctx, cancel := context.WithCancel(context.Background())
	host, err := hostd.New(ctx, h.cfg, hostd.Options{
		Version: api.Version(), Network: c.fabric.Plug(h.cfg.Name), FS: h.disk, Domains: h.domains,
		ListenLocal: func() (net.Listener, error) {
			l, err := server.ListenUnix(h.cfg.Socket)
			if err != nil {
				return nil, err
			}
			h.door = &door{UnixListener: l.(*net.UnixListener)}
			return h.door, nil
		},
	})
	if err != nil {
		cancel()
		return fmt.Errorf("start %s: %w", h.cfg.Name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- host.Run(ctx) }()
	h.stop = func() error {
		h.client.Close()
		cancel()
		h.stop = nil
		return <-ended
	}
	return nil
}

// close stops all hosts and removes what they had.
func (c *cluster) close() error {
	c.resume()
	var stopping errgroup.Group
	for _, h := range c.hosts {
		if h.stop == nil {
			continue
		}
		stopping.Go(func() error {
			if err := h.stop(); !errors.Is(err, raft.ErrRemoved) { // one that was cut off says so
				return err
			}
			return nil
		})
	}
	return errors.Join(stopping.Wait(), os.RemoveAll(c.dir))
}

// named returns a host.
func (c *cluster) named(name string) (*member, error) {
	for _, h := range c.hosts {
		if h.cfg.Name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("the cluster has no host %s", name)
}

// asked is a host that runs and answers for the cluster.
func (c *cluster) asked() *member {
	return c.hosts[slices.IndexFunc(c.hosts, func(h *member) bool { return h.stop != nil })]
}

// state waits until the cluster says that a host is in a state.
func (c *cluster) state(name string, want v1.HostState) error {
	return eventually(fmt.Sprintf("%s is %s", name, word(want)), func(ctx context.Context) (bool, error) {
		r, err := c.asked().client.Control.Hosts(ctx, &v1.HostsRequest{})
		return slices.ContainsFunc(r.GetHosts(), func(h *v1.Host) bool {
			return h.GetName() == name && h.GetState() == want
		}), err
	})
}

// met waits until n hosts are alive, at each of them.
func (c *cluster) met(n int) error {
	for _, h := range c.hosts {
		err := eventually(fmt.Sprintf("%s knows %d hosts", h.cfg.Name, n), func(ctx context.Context) (bool, error) {
			s, err := h.client.Control.Status(ctx, &v1.StatusRequest{})
			return s.GetHostsAlive() == uint32(n) && s.GetLeader() != nil, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// settled waits until as many hosts vote as are to: three of three, so that any may go, or the first one of two.
func (c *cluster) settled() error {
	return eventually("the votes are settled", func(ctx context.Context) (bool, error) {
		s, err := c.asked().client.Control.Status(ctx, &v1.StatusRequest{})
		voters := 1
		if s.GetHostsTotal() > 2 {
			voters = 3
		}
		return len(s.GetVoters()) == voters && s.GetLeader() != nil, err
	})
}

// knows waits until the catalogue has a domain at a host.
func (c *cluster) knows(uuid, host string) error {
	return eventually(fmt.Sprintf("domain %s is at %s", uuid, host), func(ctx context.Context) (bool, error) {
		r, err := c.asked().client.Control.Guests(ctx, &v1.GuestsRequest{})
		return slices.ContainsFunc(r.GetGuests(), func(g *v1.Guest) bool {
			return g.GetUuid() == uuid && (g.GetHost() == host || slices.Contains(g.GetOthers(), host))
		}), err
	})
}

// eventually waits until ok.
func eventually(what string, ok func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		done, err := ok(ctx)
		if done && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("never: %s: %v", what, err)
		case <-time.After(pollEvery):
		}
	}
}
