package hostd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// joinPatience bounds joining: the member may first have to find a leader.
	joinPatience = time.Minute
	// renewEvery is how often the certificate's age is looked at.
	renewEvery = 24 * time.Hour
	// introduceRetry is the pause between attempts to tell the catalogue who this host is.
	introduceRetry = time.Second
)

// identify loads this host's identity, or makes one: as the first host of a new cluster, or by joining.
func (h *Host) identify(ctx context.Context) error {
	id, err := pki.Load(h.fs, h.pkiDir())
	switch {
	case err == nil:
		h.id, h.founding = id, exists(h.fs, h.foundingMark())
		if h.cfg.Join != "" {
			h.log.Info("this host is a member already, --join and --token are not needed any more", "cluster", id.Cluster())
		}
	case !errors.Is(err, pki.ErrNoIdentity):
		return err
	case h.cfg.Join != "":
		err = h.join(ctx)
	default:
		err = h.found()
	}
	if h.id == nil || err != nil {
		return err
	}
	if h.id.NeedsRenewal() {
		return h.id.Renew()
	}
	return nil
}

// found makes a new cluster of this host alone. A mark on disk, removed once the catalogue knows the cluster, lets a
// daemon that was killed in between go on where it was.
func (h *Host) found() error {
	if exists(h.fs, h.raftDir()) {
		return fmt.Errorf("%w: %s holds a catalogue, but there is no certificate in %s: restore it, or move both away to start anew",
			pki.ErrDamaged, h.raftDir(), h.pkiDir())
	}
	if err := disk.WriteFile(h.fs, h.foundingMark(), nil, 0o600); err != nil {
		return fmt.Errorf("mark the new cluster: %w", err)
	}
	name := make([]byte, 8)
	rand.Read(name) // never fails
	id, err := pki.Init(h.fs, h.pkiDir(), hex.EncodeToString(name))
	if err != nil {
		return err
	}
	h.id, h.founding = id, true
	h.log.Info("made a new cluster", "cluster", id.Cluster())
	return nil
}

func (h *Host) foundingMark() string { return filepath.Join(h.cfg.Data, "founding") }

// join asks a member for a certificate.
func (h *Host) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	token, err := pki.ParseToken(h.cfg.Token)
	if err != nil {
		return err
	}
	// A daemon that was killed while it made a cluster of its own may have left its mark: a member of another cluster
	// must never take it for an order to begin a second one.
	if err := h.fs.Remove(h.foundingMark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give up the unfinished cluster: %w", err)
	}
	if err := h.fs.SyncDir(h.cfg.Data); err != nil {
		return fmt.Errorf("give up the unfinished cluster: %w", err)
	}
	request, err := pki.Prepare(h.fs, h.pkiDir())
	if err != nil {
		return err
	}
	if err := h.noteSettings(); err != nil { // the request carries them
		return err
	}
	client := api.NewClient(func(ctx context.Context) (net.Conn, error) {
		return link.DialJoin(ctx, h.network, h.cfg.Join, token)
	})
	defer client.Close()
	answer, err := client.Join.Join(ctx, &v1.JoinRequest{
		Token: h.cfg.Token, Csr: request.CSR(), Name: h.cfg.Name, Address: h.advertise, Weight: h.cfg.Weight, Labels: h.cfg.Labels,
		Limits: describeLimits(h.cfg.limits()),
	})
	if err != nil {
		return joinError(h.cfg.Join, err)
	}
	h.id, err = request.Accept(token.Pin, answer.GetHostCertificate(), answer.GetCaCertificate(), answer.GetCaKey())
	if err != nil {
		return fmt.Errorf("join at %s: %w", h.cfg.Join, err)
	}
	h.log.Info("joined", "cluster", h.id.Cluster(), "at", h.cfg.Join)
	return nil
}

// joinError says why joining failed; what the member said is passed on as it is.
func joinError(addr string, err error) error {
	for _, known := range []error{pki.ErrPinMismatch, link.ErrNoProtocol} {
		if errors.Is(err, known) {
			return fmt.Errorf("join at %s: %w", addr, err)
		}
	}
	e := api.AsError(err)
	if e.Reason == api.Unreachable {
		return api.NewError(api.Unreachable, addr, e.Err).WithHint("check that virtswarmd runs there and that the address is the one of its port")
	}
	return e
}

// allow says whether another host may speak to this one: the catalogue knows.
func (h *Host) allow(id string) error {
	if node := h.members.Load(); node != nil && !node.Known(id) {
		return pki.ErrNotMember
	}
	return nil
}

// introduce tells the catalogue who this host is, if it says otherwise: after founding the cluster, and after a start
// with another name, address or settings.
func (h *Host) introduce(ctx context.Context) {
	for {
		err := h.introduceOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		level := h.log.Warn
		if errors.Is(err, raft.ErrNoLeader) {
			level = h.log.Debug // it says so itself
		}
		level("cannot introduce this host to the catalogue yet", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(introduceRetry):
		}
	}
}

func (h *Host) introduceOnce(ctx context.Context) error {
	me := placement.Host{
		ID: h.self, Name: h.cfg.Name, Addr: h.advertise, Weight: h.cfg.Weight, Labels: h.cfg.Labels, Limits: h.cfg.limits(),
		Life: h.node.Life(),
	}
	if h.founding {
		_, err := h.node.Apply(ctx, placement.Command{InitCluster: &placement.InitCluster{
			ID: h.id.Cluster(), Host: me, Now: time.Now().Unix(),
		}})
		if err != nil {
			return err
		}
		if err := h.noteSettings(); err != nil {
			return err
		}
		h.founding = false
		return h.fs.Remove(h.foundingMark())
	}
	if err := h.node.ReadIndex(ctx); err != nil {
		return err
	}
	var known placement.Host
	h.node.View(func(s *placement.State) { known, _ = s.Host(h.self) })
	update, err := h.editedSettings()
	if err != nil {
		return err
	}
	update.Life = me.Life
	if known.Name != me.Name || known.Addr != me.Addr {
		update.Name, update.Addr = me.Name, me.Addr
	}
	if _, err := h.node.Apply(ctx, placement.Command{UpdateHost: &update}); err != nil {
		return err
	}
	return h.noteSettings()
}

// renew renews this host's certificate in time.
func (h *Host) renew(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !h.id.NeedsRenewal() {
			continue
		}
		if err := h.id.Renew(); err != nil {
			h.log.Error("cannot renew this host's certificate", "expires", h.id.Expires(), "error", err)
		}
	}
}
