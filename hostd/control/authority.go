package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// The key of the certificate authority stands at the hosts that vote. The others have their certificates signed there:
// whoever holds the key signs for members, and for nobody else.

// authorityVersion is the cluster version since which that is so. Before it, every host holds the key of the only
// authority.
const authorityVersion = 4

// signPatience bounds the time in which one host is asked to sign, or for a key.
const signPatience = 5 * time.Second

// Renewed is a certificate that was signed anew, and the authority that has signed it, in DER.
type Renewed struct{ Certificate, CA []byte }

// Renew signs the request (PKCS #10, DER) of a member. It asks for no more than that the request is signed by the
// member's key: the certificate is of use to nobody else.
func (h *Hosts) Renew(ctx context.Context, csr []byte) (Renewed, error) {
	id, err := pki.HostOfCSR(csr)
	if err != nil {
		return Renewed{}, reason.Wrap(reason.Usage, "certificate request", err)
	}
	if !h.Node.Member(id) {
		if err := h.Node.ReadIndex(ctx); err != nil { // it may have joined a moment ago
			return Renewed{}, reason.Explain(err, "")
		}
	}
	if !h.Node.Member(id) {
		return Renewed{}, reason.Wrap(reason.NotMember, "host "+id, nil)
	}
	return h.signHere(csr)
}

// signHere signs by the key that this host holds.
func (r *Rooms) signHere(csr []byte) (Renewed, error) {
	ca := r.Identity.CA()
	cert, _, err := ca.SignCSR(csr)
	if errors.Is(err, pki.ErrNoKey) {
		return Renewed{}, reason.Wrap(reason.Unreachable, r.Name, err).WithHint("hosts that vote sign: see 'virtswarm hosts'")
	}
	return Renewed{cert, ca.Certificate()}, reason.Explain(err, "certificate request")
}

// Sign has a member's request signed: here, or by a host that holds the key. Hosts that vote are asked first.
func (r *Rooms) Sign(ctx context.Context, csr []byte) (s Renewed, err error) {
	if r.Identity.CA().Signs() {
		return r.signHere(csr)
	}
	for _, host := range r.signers() {
		ctx, cancel := context.WithTimeout(ctx, signPatience)
		s, err = r.Peers.Renew(ctx, host, csr)
		cancel()
		if err == nil {
			return s, nil
		}
		r.Logger.Debug("a host does not sign", "host", host.Name, "error", err)
	}
	return Renewed{}, reason.Wrap(reason.Unreachable, "", errors.Join(pki.ErrNoKey, err)).
		WithHint("a host that votes must be up to sign certificates: see 'virtswarm hosts'")
}

// signers returns the other members, the leader first, then those that vote.
func (r *Rooms) signers() (hosts []placement.Host) {
	status := r.Node.Status()
	r.Node.View(func(s *placement.State) { hosts = s.Hosts() })
	hosts = slices.DeleteFunc(hosts, func(h placement.Host) bool { return h.ID == r.Self })
	rank := func(h placement.Host) int {
		switch {
		case h.ID == status.Leader:
			return 0
		case slices.Contains(status.Voters, h.ID):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(hosts, func(a, b placement.Host) int { return rank(a) - rank(b) })
	return hosts
}

// AuthorityKey says whether this host holds the key (PKCS #8, DER) of an authority, and gives it to a caller that votes.
func (h *Hosts) AuthorityKey(ctx context.Context, caller placement.HostID, authority string) (held bool, key []byte, err error) {
	pin, err := ParseAuthority(authority)
	if err != nil {
		return false, nil, err
	}
	if key, err = h.Identity.HeldKey(pin); err != nil || key == nil {
		return false, nil, reason.Explain(err, "")
	}
	if !slices.Contains(h.Node.Status().Voters, caller) {
		return true, nil, nil
	}
	// A host that lags behind may take a host for a voter that has been removed.
	if err := h.Node.ReadIndex(ctx); err != nil || !slices.Contains(h.Node.Status().Voters, caller) || !h.Node.Member(string(caller)) {
		return true, nil, nil
	}
	return true, key, nil
}

// ParseAuthority reads the id of an authority.
func ParseAuthority(id string) (pin [sha256.Size]byte, err error) {
	p, err := hex.DecodeString(id)
	if err != nil || len(p) != len(pin) {
		return pin, reason.Wrap(reason.Usage, fmt.Sprintf("%.80q", id), errors.New("not the id of a certificate authority"))
	}
	return [sha256.Size]byte(p), nil
}

// Authority is a certificate authority, with the hosts whose certificates it has signed.
type Authority struct {
	placement.Authority
	Hosts []string // names, in order
}

// Authorities lists those that the hosts trust, the oldest first.
func (h *Hosts) Authorities(ctx context.Context) (all []Authority, now Staleness) {
	now = h.fresh(ctx)
	h.Node.View(func(s *placement.State) {
		for _, a := range s.Authorities() {
			d := Authority{Authority: a}
			for _, host := range s.Hosts() {
				if host.Authority == a.ID {
					d.Hosts = append(d.Hosts, host.Name)
				}
			}
			slices.Sort(d.Hosts)
			all = append(all, d)
		}
	})
	return all, now
}

// Rotation says how far the replacement of the authority is.
type Rotation struct {
	Authority      string // the new one
	Active         bool   // it signs
	Hosts, Renewed int    // hosts that are up, and those of them that have a certificate of it
	Down           []string
	Done           bool
}

// Rotate makes a new certificate authority and reports until it signs and each host that is up has a certificate of it.
// The leader does all but the beginning: see hostd's keepAuthority.
func (h *Hosts) Rotate(ctx context.Context, report func(Rotation) error) error {
	h.fresh(ctx)
	version := 0
	h.Node.View(func(s *placement.State) { version = s.Version() })
	if version < authorityVersion {
		return reason.Wrap(reason.MixedVersions, "", fmt.Errorf("the cluster version is %d, and it takes %d", version, authorityVersion)).
			WithHint("upgrade all hosts first: see 'virtswarm hosts'")
	}
	id, err := h.BeginRotation(ctx)
	if err != nil {
		return err
	}
	for {
		changed := h.Node.Changed()
		r := h.rotation(id)
		if err := report(r); err != nil || r.Done {
			return err
		}
		if r.Authority == "" {
			return reason.Wrap(reason.Unreachable, "", errors.New("too few of the hosts that vote could be given the new key")).
				WithHint("nothing has changed; see 'virtswarm hosts', then repeat the command")
		}
		select {
		case <-ctx.Done():
			return reason.Explain(ctx.Err(), "")
		case <-changed:
		}
	}
}

// BeginRotation makes a new authority, keeps its key here, and tells the catalogue of it. It returns its id.
func (r *Rooms) BeginRotation(ctx context.Context) (id string, err error) {
	ca, err := pki.NewCA(r.Identity.Cluster())
	if err != nil {
		return "", err
	}
	pin := ca.Pin()
	id = hex.EncodeToString(pin[:])
	// The key first: an authority in the catalogue whose key nobody holds would be given up again.
	if err := r.Identity.HoldKey(pin, ca.Key()); err != nil {
		return "", err
	}
	tokens := make([]byte, pki.TokenKeySize)
	rand.Read(tokens) // never fails
	_, err = r.write(ctx, placement.Command{SetAuthority: &placement.SetAuthority{
		ID: id, Cert: ca.Certificate(), TokenKey: tokens, To: placement.NextAuthority, By: r.Self, Now: r.Now().Unix(),
	}}, "")
	if errors.Is(err, placement.ErrAuthority) {
		return "", reason.Wrap(reason.Usage, "", err).WithHint("see 'virtswarm ca'; repeat when the replacement before this one is over")
	}
	return id, err
}

// rotation says how far the replacement by an authority is.
func (h *Hosts) rotation(id string) (r Rotation) {
	h.Node.View(func(s *placement.State) {
		for _, a := range s.Authorities() {
			if a.ID == id {
				r.Authority, r.Active = id, a.State != placement.NextAuthority
			}
		}
		for _, host := range s.Hosts() {
			switch {
			case !host.State.Serves():
				r.Down = append(r.Down, host.Name)
			case host.Authority == id:
				r.Renewed++
				fallthrough
			default:
				r.Hosts++
			}
		}
	})
	slices.Sort(r.Down)
	r.Done = r.Active && r.Renewed == r.Hosts
	return r
}

// tokenKey is the key by which this cluster's tokens are known; nil below the cluster version that has one.
func (r *Rooms) tokenKey() (key []byte) {
	r.Node.View(func(s *placement.State) {
		if a, ok := s.Signing(); ok {
			key = a.TokenKey
		}
	})
	return key
}
