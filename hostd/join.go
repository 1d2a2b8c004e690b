package hostd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// A host joins in steps, each of which a crash may follow:
//
//  1. A key is made: in pki/ if the directory is new, else in pki.new/, beside what is there.
//  2. A member admits the key and answers with a certificate.
//  3. The mark "joining" names the new host id: this host has no Raft data yet, and that is right.
//  4. The certificate is written. From here on the host is the new one.
//  5. If it was made beside an old identity, that one goes, raft/ becomes raft.old/, and pki.new/ becomes pki/.
//  6. Raft is opened, and the mark is removed.
//
// Until step 4 the directory is what it was, so a join that fails changes nothing. A start repeats step 5.

const (
	// joinPatience bounds joining: the member may first have to find a leader.
	joinPatience = time.Minute
	// standingPatience bounds the question whether this host is still a member.
	standingPatience = 10 * time.Second
	// standingRetry is the pause before it is asked again.
	standingRetry = 50 * time.Millisecond
	// maxMark bounds a mark before it is read, in bytes: it holds a host id.
	maxMark = 1 << 10
)

// joiningMark holds the id of the host that has joined and has not opened Raft yet.
func (h *Host) joiningMark() string { return filepath.Join(h.cfg.Data, "joining") }

// newPKIDir holds the identity of a host that joins anew, until it takes the place of the old one.
func (h *Host) newPKIDir() string { return filepath.Join(h.cfg.Data, "pki.new") }

// oldRaftDir keeps the catalogue of the membership before the present one.
func (h *Host) oldRaftDir() string { return filepath.Join(h.cfg.Data, "raft.old") }

// unmark removes a mark, durably.
func (h *Host) unmark(path string) error {
	if err := h.fs.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove mark: %w", err)
	}
	return h.fs.SyncDir(filepath.Dir(path))
}

// join asks the member at addr for a certificate, and makes it this host's identity.
func (h *Host) join(ctx context.Context, addr, text string) error {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	token, err := pki.ParseToken(text)
	if err != nil {
		return err
	}
	if addr == h.advertise {
		return reason.Wrap(reason.Usage, addr, errors.New("this is the address of this host itself")).WithHint("name the address of a member of the cluster")
	}
	if h.picked {
		h.advertise = h.addressTowards(ctx, addr)
	}
	dir := h.pkiDir()
	if _, err := pki.Load(h.fs, dir); !errors.Is(err, pki.ErrNoIdentity) || exists(h.fs, h.raftDir()) {
		dir = h.newPKIDir()
	}
	again := exists(h.fs, dir) // the key of an attempt whose outcome nobody knows
	request, err := pki.Prepare(h.fs, dir)
	if err != nil {
		return err
	}
	dial := func(ctx context.Context) (net.Conn, error) { return link.DialJoin(ctx, h.network, addr, token) }
	stop := h.answerProbe(request)
	answer, asked, err := server.Apply(ctx, addr, dial, control.Applicant{
		Token: token.Encode(), CSR: request.CSR(), Name: h.cfg.Name, Address: h.advertise, Weight: h.cfg.Weight, Labels: h.cfg.Labels,
		Limits: h.cfg.limits(), Version: h.can, Program: h.version, Picked: h.picked,
	})
	if stopped := stop(); err == nil {
		err = stopped
	}
	if err != nil {
		if !again && (!asked || refusedToJoin(err)) {
			h.warn("remove the key of a failed join", h.fs.RemoveAll(dir))
		}
		return err
	}
	if err := h.beginJoin(request); err != nil {
		return err
	}
	id, err := request.Accept(token.Pin, answer.Certificate, answer.CA, answer.CAKey)
	if err != nil {
		return fmt.Errorf("join at %s: %w", addr, err)
	}
	if err := h.finishJoin(); err != nil {
		return err
	}
	if dir != h.pkiDir() {
		if id, err = pki.Load(h.fs, h.pkiDir()); err != nil {
			return err
		}
	}
	h.id, h.founding = id, false
	h.log.Info("joined", "cluster", id.Cluster(), "at", addr)
	if answer.Unreached != "" {
		h.log.Warn("the others cannot reach this host: correct advertise in its configuration, or open the port, and start it again",
			"advertise", h.advertise, "error", answer.Unreached)
	}
	return nil
}

// answerProbe lets a member find out whether this machine is where it says, until stop is called.
func (h *Host) answerProbe(request *pki.Request) (stop func() error) {
	door, ended := lend(h.port), make(chan error, 1)
	go func() { ended <- link.AnswerProbe(door, request) }()
	return func() error {
		door.Close()
		if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("answer at %s: %w", h.port.Addr(), err)
		}
		return door.giveBack()
	}
}

// refusedToJoin says whether an error is the word of a member that has not admitted this host.
func refusedToJoin(err error) bool {
	switch reason.Of(err) {
	case reason.BadToken, reason.HostNameTaken, reason.InvalidConfig, reason.NotMember, reason.Usage:
		return true
	}
	return false
}

// beginJoin writes down what a start must know that finds the certificate, but no Raft data.
func (h *Host) beginJoin(request *pki.Request) error {
	if err := disk.WriteFile(h.fs, h.joiningMark(), []byte(request.HostID()+"\n"), 0o600); err != nil {
		return fmt.Errorf("mark the join: %w", err)
	}
	// A daemon that was killed while it made a cluster of its own may have left its mark: a member of another cluster
	// must never take it for an order to begin a second one.
	if err := h.unmark(h.foundingMark()); err != nil {
		return fmt.Errorf("give up the unfinished cluster: %w", err)
	}
	return h.noteSettings() // the request carried them
}

// finishJoin puts an identity that was accepted beside an old one in its place, if there is one.
func (h *Host) finishJoin() error {
	if !exists(h.fs, h.newPKIDir()) {
		return nil
	}
	if _, err := pki.Load(h.fs, h.newPKIDir()); errors.Is(err, pki.ErrNoIdentity) {
		return nil
	} else if err != nil {
		return err
	}
	// Raft is opened only after pki.new is gone: what is here now is of the old membership.
	if exists(h.fs, h.raftDir()) {
		h.log.Info("keeping the catalogue of the former membership", "dir", h.oldRaftDir())
		if err := h.fs.RemoveAll(h.oldRaftDir()); err != nil {
			return fmt.Errorf("put the old catalogue aside: %w", err)
		}
		if err := h.fs.Rename(h.raftDir(), h.oldRaftDir()); err != nil {
			return fmt.Errorf("put the old catalogue aside: %w", err)
		}
		if err := h.fs.SyncDir(h.cfg.Data); err != nil {
			return fmt.Errorf("put the old catalogue aside: %w", err)
		}
	}
	if err := h.fs.RemoveAll(h.pkiDir()); err != nil {
		return fmt.Errorf("replace the old identity: %w", err)
	}
	if err := h.fs.Rename(h.newPKIDir(), h.pkiDir()); err != nil {
		return fmt.Errorf("replace the old identity: %w", err)
	}
	return h.fs.SyncDir(h.cfg.Data)
}

// removedAt asks the member at the address to join whether the cluster has removed this host. It says so only if it is
// sure: a host that is still a member starts although nobody answers there.
func (h *Host) removedAt(ctx context.Context, id *pki.Identity) bool {
	ctx, cancel := context.WithTimeout(ctx, standingPatience)
	defer cancel()
	for {
		removed, sure := h.askStanding(ctx, id)
		if sure || ctx.Err() != nil {
			return removed
		}
		select { // the connection broke before it said why
		case <-ctx.Done():
		case <-time.After(standingRetry):
		}
	}
}

// askStanding asks once. It is not sure if the connection broke before the member had its say.
func (h *Host) askStanding(ctx context.Context, id *pki.Identity) (removed, sure bool) {
	dialer := &link.Dialer{Network: h.network, Identity: id, Timeout: standingPatience}
	var connected, refused atomic.Bool
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := dialer.Dial(ctx, h.cfg.Join, link.ProtoHTTP2, "")
		if err != nil {
			refused.Store(refused.Load() || link.Refused(err))
			return nil, err
		}
		connected.Store(true)
		return &refusal{conn, &refused}, nil
	}
	members, stale, err := server.Members(ctx, dial)
	if err == nil {
		return !slices.Contains(members, placement.HostID(id.HostID())) && !stale, true
	}
	h.log.Debug("the member to join at does not say whether this host is one", "at", h.cfg.Join, "error", err)
	return refused.Load(), refused.Load() || !connected.Load()
}

// refusal notes when the other end of a connection refuses this host: HTTP does not always pass that on.
type refusal struct {
	net.Conn
	seen *atomic.Bool
}

// Read implements net.Conn.
func (r *refusal) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if err != nil && link.Refused(err) {
		r.seen.Store(true)
	}
	return n, err
}
