package server

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// Peers calls other hosts: control.Peers, and raft.Forwarder. It keeps one client a host and address, and is safe for
// concurrent use.
type Peers struct {
	dial     func(ctx context.Context, addr string, host placement.HostID) (net.Conn, error)
	dialJoin func(ctx context.Context, addr string, host placement.HostID) (net.Conn, error)

	mu      sync.Mutex
	clients map[peerAddress]*api.Client
}

var _ control.Peers = (*Peers)(nil)

type peerAddress struct {
	host placement.HostID
	addr string
}

// NewPeers makes Peers. dial opens a connection to the API of a host, dialJoin one to that for strangers; both prove that
// it is that host.
func NewPeers(dial, dialJoin func(ctx context.Context, addr string, host placement.HostID) (net.Conn, error)) *Peers {
	return &Peers{dial: dial, dialJoin: dialJoin, clients: map[peerAddress]*api.Client{}}
}

func (p *Peers) client(host placement.HostID, addr string) *api.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := peerAddress{host, addr}
	c := p.clients[key]
	if c == nil {
		c = api.NewClient(func(ctx context.Context) (net.Conn, error) { return p.dial(ctx, addr, host) })
		p.clients[key] = c
	}
	return c
}

// Close closes all connections.
func (p *Peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		c.Close()
	}
	clear(p.clients)
}

// Forward implements raft.Forwarder.
func (p *Peers) Forward(ctx context.Context, host placement.HostID, addr, op string, payload []byte) ([]byte, error) {
	r, err := p.client(host, addr).Cluster.Forward(ctx, &v1.ForwardRequest{Op: op, Payload: payload})
	if err != nil {
		return nil, fmt.Errorf("forward %s to host %s at %s: %w", op, host, addr, err)
	}
	return r.GetResult(), nil
}

// Progress implements control.Peers.
func (p *Peers) Progress(ctx context.Context, host placement.Host, id content.Digest) (control.Progress, error) {
	r, err := p.client(host.ID, host.Addr).Cluster.Progress(ctx, &v1.ProgressRequest{Id: id.String()})
	if err != nil {
		return control.Progress{}, fmt.Errorf("ask host %s: %w", host.Name, err)
	}
	return control.Progress{
		Known: r.GetKnown(), HeldBytes: int64(r.GetHeldBytes()), TotalBytes: int64(r.GetTotalBytes()), Fetching: r.GetFetching(),
		Rate: r.GetRate(), Sources: int(r.GetSources()),
	}, nil
}

// Report implements control.Peers.
func (p *Peers) Report(ctx context.Context, host placement.Host, rates bool) (control.Report, error) {
	r, err := p.client(host.ID, host.Addr).Cluster.Report(ctx, &v1.ReportRequest{Peers: rates})
	if err != nil {
		return control.Report{}, api.AsError(err)
	}
	return reportOf(r), nil
}

// Strays implements control.Peers.
func (p *Peers) Strays(ctx context.Context, host placement.Host, hold bool) (all []control.Stray, err error) {
	req := &v1.StraysHereRequest{Hold: hold}
	for {
		page, err := p.client(host.ID, host.Addr).Cluster.StraysHere(ctx, req)
		if err != nil {
			return nil, api.AsError(err)
		}
		for _, m := range page.GetStrays() {
			s, err := strayOf(m)
			if err != nil {
				return nil, fmt.Errorf("host %s tells of a stray: %w", host.Name, err)
			}
			if m.GetStray().GetId() <= req.After {
				return nil, fmt.Errorf("host %s tells its strays out of order", host.Name)
			}
			s.Host, s.HostName = host.ID, host.Name // whatever it calls itself
			req.After = m.GetStray().GetId()
			all = append(all, s)
		}
		if !page.GetMore() || len(page.GetStrays()) == 0 || len(all) >= maxStrays {
			return all, nil
		}
	}
}

// Renew implements control.Peers. It needs no certificate of this host that is still good.
func (p *Peers) Renew(ctx context.Context, host placement.Host, csr []byte) (control.Renewed, error) {
	client := api.NewClient(func(ctx context.Context) (net.Conn, error) { return p.dialJoin(ctx, host.Addr, host.ID) })
	defer client.Close()
	r, err := client.Join.Renew(ctx, &v1.RenewRequest{Csr: csr})
	if err != nil {
		return control.Renewed{}, api.AsError(err)
	}
	return control.Renewed{Certificate: r.GetHostCertificate(), CA: r.GetCaCertificate()}, nil
}

// AuthorityKey implements control.Peers.
func (p *Peers) AuthorityKey(ctx context.Context, host placement.Host, authority string) (held bool, key []byte, err error) {
	r, err := p.client(host.ID, host.Addr).Cluster.AuthorityKey(ctx, &v1.AuthorityKeyRequest{Authority: authority})
	if err != nil {
		return false, nil, api.AsError(err)
	}
	return r.GetHeld(), r.GetKey(), nil
}

// SetGuest implements control.Peers.
func (p *Peers) SetGuest(ctx context.Context, host placement.Host, c control.GuestChange) (control.Guest, error) {
	req := &v1.SetGuestRequest{
		Guest: c.Guest, Add: list(c.Add, needMessage), Remove: c.Remove, AddTags: c.AddTags, RemoveTags: c.RemoveTags,
		RemovePush: c.RemovePush,
	}
	if c.Push != nil {
		req.Push = pushMessage(c.Push)
	}
	if c.Shm != nil {
		req.Shm = new(uint64(*c.Shm))
	}
	r, err := p.client(host.ID, host.Addr).Control.SetGuest(ctx, req)
	return guestFrom(r.GetGuest(), err)
}

// AttachShm implements control.Peers.
func (p *Peers) AttachShm(ctx context.Context, host placement.Host, guest string, size int64) (control.Guest, error) {
	req := &v1.AttachShmRequest{Guest: guest, Size: uint64(size)}
	r, err := p.client(host.ID, host.Addr).Control.AttachShm(ctx, req)
	return guestFrom(r.GetGuest(), err)
}

// DetachShm implements control.Peers.
func (p *Peers) DetachShm(ctx context.Context, host placement.Host, guest string) (control.Guest, error) {
	r, err := p.client(host.ID, host.Addr).Control.DetachShm(ctx, &v1.DetachShmRequest{Guest: guest})
	return guestFrom(r.GetGuest(), err)
}

// Prefetch implements control.Peers.
func (p *Peers) Prefetch(ctx context.Context, host placement.Host, domain string, report func(control.PrepareProgress) error) error {
	req := &v1.PrefetchRequest{Guest: domain, Host: string(host.ID)}
	stream, err := p.client(host.ID, host.Addr).Control.Prefetch(ctx, req)
	if err != nil {
		return api.AsError(err)
	}
	defer stream.Close()
	for stream.Receive() {
		if err := report(prepareProgressOf(stream.Msg())); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return api.AsError(err)
	}
	return nil
}

// CancelStart implements control.Peers.
func (p *Peers) CancelStart(ctx context.Context, host placement.Host, domain string) error {
	req := &v1.CancelStartRequest{Guest: domain, Host: string(host.ID)}
	if _, err := p.client(host.ID, host.Addr).Control.CancelStart(ctx, req); err != nil {
		return api.AsError(err)
	}
	return nil
}

func guestFrom(m *v1.Guest, err error) (control.Guest, error) {
	if err != nil {
		return control.Guest{}, api.AsError(err)
	}
	return guestOf(m), nil
}

// Why says in few words why a call of another host failed.
func Why(err error) string { return control.Unreachable(api.AsError(err)) }
