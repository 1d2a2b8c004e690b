package hostd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// introduceRetry is the pause between attempts to tell the catalogue who this host is.
const introduceRetry = time.Second

// errNoCatalogue: the host has an identity, but what it knew and promised as a member is gone.
var errNoCatalogue = reason.Sentinel(reason.OldCopy, "there are certificates, but no Raft data")

// identify loads this host's identity, or makes one: as the first host of a new cluster, or by joining.
func (h *Host) identify(ctx context.Context) error {
	id, err := h.loadIdentity()
	switch {
	case err == nil:
		err = h.resume(ctx, id)
	case !errors.Is(err, pki.ErrNoIdentity):
		return err
	case h.cfg.Join != "" && h.cfg.Token == "":
		return fmt.Errorf("%w: `join`: needs `token`, as this host is of no cluster: 'virtswarm token' at a member prints one", ErrConfig)
	case h.cfg.Join != "":
		err = h.join(ctx, h.cfg.Join, h.cfg.Token)
	default:
		err = h.found()
	}
	if err != nil {
		return err
	}
	if h.id.CA().Signs() && h.id.NeedsRenewal() {
		return h.id.Renew()
	}
	return nil // a host that does not sign renews once it can ask one that does
}

// loadIdentity reads the identity on disk, after it has finished a join that a crash interrupted.
func (h *Host) loadIdentity() (*pki.Identity, error) {
	if err := h.finishJoin(); err != nil {
		return nil, err
	}
	return pki.Load(h.fs, h.pkiDir())
}

// resume goes on as the host that the directory makes of this one, or joins anew if it is told to and no member any
// more.
func (h *Host) resume(ctx context.Context, id *pki.Identity) error {
	known, err := h.mayResume(id)
	if err != nil {
		return err
	}
	if h.cfg.Token != "" {
		token, err := pki.ParseToken(h.cfg.Token)
		if err != nil && !errors.Is(err, pki.ErrTokenExpired) { // an old token may stay in a unit file for years
			return err
		}
		if !id.Knew(token.Pin) {
			return h.otherCluster(id)
		}
		if !known || h.removedAt(ctx, id) {
			err := h.join(ctx, h.cfg.Join, h.cfg.Token)
			// A member that lags behind refuses a host that was admitted a moment ago. Asked to admit it, it catches up.
			if err == nil || !known || h.removedAt(ctx, id) {
				return err
			}
		}
		h.log.Info("this host is a member already: it needs no token any more", "cluster", id.Cluster())
	} else if !known {
		return h.oldCopy(id)
	}
	h.id, h.founding = id, exists(h.fs, h.foundingMark())
	return nil
}

// mayResume says whether the host may go on under an identity: it has its Raft data, or never had any. A voter without
// its Raft data could undo what the cluster has acknowledged.
func (h *Host) mayResume(id *pki.Identity) (bool, error) {
	if exists(h.fs, h.foundingMark()) {
		return true, nil
	}
	joined, err := disk.ReadFile(h.fs, h.joiningMark(), maxMark)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read the mark of a join: %w", err)
	}
	if strings.TrimSpace(string(joined)) == id.HostID() {
		return true, nil
	}
	return raft.HasData(h.fs, h.raftDir())
}

// oldCopy refuses a start without Raft data, and names the way out.
func (h *Host) oldCopy(id *pki.Identity) error {
	return reason.Wrap(reason.OldCopy, h.cfg.Data, fmt.Errorf("%w in %s: this host would break the promises that it made to cluster %s",
		errNoCatalogue, h.raftDir(), id.Cluster())).WithHint(fmt.Sprintf(
		"at another host run: virtswarm leave `force` %s; then start this daemon with `join` ADDR `token` T: its stored files stay", h.cfg.Name))
}

// otherCluster refuses a token that does not fit what this host is.
func (h *Host) otherCluster(id *pki.Identity) error {
	err := fmt.Errorf("this host is a member of cluster %s, and the token admits to another one", id.Cluster())
	return reason.Wrap(reason.NotMember, h.cfg.Name, err).WithHint(fmt.Sprintf("to stay in this cluster, start without `join` and `token`; "+
		"to move, run virtswarm leave here first, or delete %s and %s if nobody needs the cluster %s", h.pkiDir(), h.raftDir(), id.Cluster()))
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
		Life: h.node.Life(), Version: h.can, Program: h.version,
	}
	if h.founding {
		_, err := h.node.Apply(ctx, placement.Command{InitCluster: &placement.InitCluster{
			ID: h.id.Cluster(), Host: me, Now: h.now().Unix(),
		}})
		if err != nil {
			return err
		}
		if err := h.noteSettings(); err != nil {
			return err
		}
		h.founding = false
		if err := h.unmark(h.foundingMark()); err != nil {
			return err
		}
		h.ready()
		return nil
	}
	if err := h.node.ReadIndex(ctx); err != nil {
		return err
	}
	var known placement.Host
	h.node.View(func(s *placement.State) { known, _ = s.Host(h.self) })
	if h.picked && known.Addr != "" && known.Addr != h.advertise && isOwn(known.Addr) { // a pick is no reason to change what works
		me.Addr = known.Addr
	}
	update, err := h.editedSettings()
	if err != nil {
		return err
	}
	update.Life, update.Version, update.Program = me.Life, me.Version, me.Program
	if known.Name != me.Name || known.Addr != me.Addr {
		update.Name, update.Addr = me.Name, me.Addr
	}
	if _, err := h.node.Apply(ctx, placement.Command{UpdateHost: &update}); err != nil {
		return err
	}
	return h.noteSettings()
}
