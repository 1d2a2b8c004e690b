package control

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Applicant is a machine that wants to be a host. Nothing about it is proven but what its token and its request carry.
type Applicant struct {
	Token   string
	CSR     []byte // a certificate request, DER
	Name    string
	Address string // where other hosts will reach it
	Picked  bool   // the daemon chose the address, and not an operator
	Weight  uint32
	Labels  map[string]string
	Limits  placement.Limits
	Version int    // the highest cluster version that it can; 0 if it tells none
	Program string // what its daemon calls itself
}

// Admission makes a machine a host.
type Admission struct {
	Cluster                string
	ID                     placement.HostID
	Certificate, CA, CAKey []byte // DER; no key since cluster version 4
	Members                []placement.Host
	Unreached              string // why no member reaches the host where it says; "" if one does
}

// Admit makes the machine that shows a token of this cluster a member.
func (h *Hosts) Admit(ctx context.Context, a Applicant) (r Admission, err error) {
	token, err := pki.ParseToken(a.Token)
	if err != nil {
		return r, reason.Explain(err, "")
	}
	if err := h.Identity.CA().Made(token, h.tokenKey()); err != nil { // before anything that costs more than arithmetic: anybody may ask
		return r, reason.Explain(err, "")
	}
	if err := h.Node.ReadIndex(ctx); err != nil { // the token may be a moment old
		return r, reason.Explain(err, "")
	}
	tokenID := hex.EncodeToString(token.ID[:])
	if err := h.checkToken(tokenID, token); err != nil {
		return r, reason.Explain(err, "")
	}
	id, err := pki.HostOfCSR(a.CSR)
	if err != nil {
		return r, reason.Explain(err, "certificate request")
	}
	unreached, err := h.callBack(ctx, a, placement.HostID(id))
	if err != nil {
		return r, err
	}
	_, err = h.write(ctx, placement.Command{AddHost: &placement.AddHost{
		Host: placement.Host{
			ID: placement.HostID(id), Name: a.Name, Addr: a.Address, Weight: max(1, a.Weight), Labels: a.Labels, Limits: a.Limits,
			Version: a.Version, Program: a.Program,
		},
		TokenID: tokenID, Now: h.Now().Unix(),
	}}, fmt.Sprintf("%.200q", a.Name))
	if err != nil {
		return r, err
	}
	h.Logger.Info("admitted a host", "name", a.Name, "id", id, "address", a.Address)
	// It is a member now, and members have their requests signed. If that fails, it comes again with the same token.
	signed, err := h.Sign(ctx, a.CSR)
	if err != nil {
		return r, err
	}
	r = Admission{Cluster: h.Identity.Cluster(), ID: placement.HostID(id), Certificate: signed.Certificate, CA: signed.CA, Unreached: unreached}
	h.Node.View(func(s *placement.State) {
		r.Members = s.Hosts()
		if s.Version() < authorityVersion {
			r.CAKey = h.Identity.CA().Key()
		}
	})
	return r, nil
}

// callBack makes sure that hosts reach the applicant where it says, for otherwise it would be a member that is never
// heard. An operator who says an address may know better, of a port that is still to be opened: then unreached says why
// nobody answers there now; but it is an error if it is another host that does. Only those that can the cluster version
// which brought this listen for it.
func (h *Hosts) callBack(ctx context.Context, a Applicant, id placement.HostID) (unreached string, err error) {
	if a.Version < authorityVersion {
		return "", nil
	}
	err = h.Probe(ctx, a.Address, id)
	switch {
	case err == nil:
		return "", nil
	case !a.Picked && errors.Is(err, link.ErrNobody):
		h.Logger.Warn("a new host cannot be reached where it says", "name", a.Name, "address", a.Address, "error", err)
		return fmt.Sprintf("%s cannot reach it there: %v", h.Name, err), nil
	}
	return "", reason.Wrap(reason.InvalidConfig, a.Address, fmt.Errorf("%s cannot reach the new host there: %w", h.Name, err)).
		WithHint("say in its configuration at which address the others reach it (`advertise`), and open the port")
}

// checkToken compares a token's secret with what the catalogue keeps of it. Whether it was used is checked once more,
// and for good, by the command that uses it.
func (h *Hosts) checkToken(id string, token pki.Token) error {
	var known placement.Token
	var ok bool
	h.Node.View(func(s *placement.State) { known, ok = s.Token(id) })
	var hash [32]byte
	if n, err := hex.Decode(hash[:], []byte(known.Hash)); !ok || err != nil || n != len(hash) || !token.Matches(hash) {
		return placement.ErrTokenUnknown
	}
	return nil
}
