package hostd

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// The certificate authority of the cluster, and this host's part in it. The catalogue says which authority signs and
// which others are trusted; the key stands at the hosts that vote:
//
//   - Every host trusts what the catalogue says, and has its certificate renewed in time, or when another authority signs.
//   - A host that votes and lacks a key asks the others for it. A host that does not vote forgets its keys once most
//     hosts that vote hold them.
//   - The leader enters the first authority; makes the next one sign once most hosts that vote hold its key, or gives it
//     up; drops a former one once every host that is up has a certificate of its successor; and begins a replacement by
//     itself if no host that answers holds the key.
//
// Each of these is a step that is tried again until the catalogue shows that it is done, so none of them minds a crash.

const (
	// authorityEvery is how often all that is looked at although nothing has changed: clocks are set, hosts come back.
	authorityEvery = time.Second
	// keyRetry is the pause between two rounds of asking all hosts about keys, renewRetry between two attempts to renew.
	keyRetry   = 5 * time.Second
	renewRetry = 5 * time.Second
	// askPatience bounds asking one host for a key.
	askPatience = 3 * time.Second
	// nextPatience is how long an authority may wait to sign, keyPatience how long nobody may hold the key of the one that
	// signs, before the leader goes on without it.
	nextPatience = 2 * time.Minute
	keyPatience  = time.Minute
	// formerPatience is how long a former authority is trusted at most: no certificate of it is good any more.
	formerPatience = pki.HostLife + 24*time.Hour
)

// keepAuthority does this host's part until ctx ends.
func (h *Host) keepAuthority(ctx context.Context) {
	k := authorityKeeper{Host: h, tried: map[string]time.Time{}}
	tick := time.NewTicker(authorityEvery)
	defer tick.Stop()
	for {
		changed := h.node.Changed()
		k.step(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
			continue
		}
		select { // a busy catalogue changes hundreds of times a second
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// authorityKeeper remembers between steps what was tried.
type authorityKeeper struct {
	*Host
	tried   map[string]time.Time // when something was tried last: see due
	waiting string               // the next authority that the leader waits for
	since   time.Time            // since when it does
	keyless time.Time            // since when nobody is known to hold the key of the one that signs
	warned  string               // the last trouble that was logged
}

// view is what a step works with.
type view struct {
	version int
	all     []placement.Authority
	active  placement.Authority
	next    placement.Authority // without an id if there is none
	self    placement.Host
	hosts   []placement.Host
	voters  []placement.HostID
	leader  bool
	voter   bool
}

func (k *authorityKeeper) look() (v view) {
	status := k.node.Status()
	v.voters, v.leader = status.Voters, status.Role == raft.Leader
	v.voter = slices.Contains(v.voters, k.self)
	k.node.View(func(s *placement.State) {
		v.version, v.all, v.hosts = s.Version(), s.Authorities(), s.Hosts()
		v.self, _ = s.Host(k.self)
	})
	for _, a := range v.all {
		switch a.State {
		case placement.ActiveAuthority:
			v.active = a
		case placement.NextAuthority:
			v.next = a
		}
	}
	return v
}

// step does what is to be done now. What fails is logged once, and tried again.
func (k *authorityKeeper) step(ctx context.Context) {
	err := k.try(ctx)
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != k.warned && err != nil && ctx.Err() == nil {
		k.log.Warn("cannot do this host's part in the certificate authority yet", "error", err)
	}
	k.warned = text
}

func (k *authorityKeeper) try(ctx context.Context) error {
	v := k.look()
	if v.self.ID == "" { // not introduced yet, or removed
		return k.renew(ctx)
	}
	if len(v.all) > 0 {
		if err := k.trust(v); err != nil {
			return err
		}
		if err := k.keys(ctx, v); err != nil {
			return err
		}
	}
	if err := k.renew(ctx); err != nil {
		return err
	}
	if len(v.all) == 0 {
		return k.first(ctx, v)
	}
	if v.leader {
		if err := k.lead(ctx, v); err != nil {
			return err
		}
	}
	return k.tell(ctx, v)
}

// first enters the authority that every host of an older cluster has, once the cluster version allows it.
func (k *authorityKeeper) first(ctx context.Context, v view) error {
	if !v.leader || v.version < 4 {
		return nil
	}
	ca, tokens := k.id.CA(), make([]byte, pki.TokenKeySize)
	rand.Read(tokens) // never fails
	pin := ca.Pin()
	return k.set(ctx, placement.SetAuthority{
		ID: hex.EncodeToString(pin[:]), Cert: ca.Certificate(), TokenKey: tokens, To: placement.ActiveAuthority, By: k.self,
	})
}

func (k *authorityKeeper) set(ctx context.Context, c placement.SetAuthority) error {
	c.Now = time.Now().Unix()
	if _, err := k.node.Apply(ctx, placement.Command{SetAuthority: &c}); err != nil {
		return fmt.Errorf("make certificate authority %.8s %s: %w", c.ID, c.To, err)
	}
	k.log.Info("a certificate authority has another part", "authority", c.ID[:8], "part", c.To)
	return nil
}

// trust has this host believe the authorities of the catalogue, the one that signs first.
func (k *authorityKeeper) trust(v view) error {
	others := [][]byte{}
	want := [][]byte{v.active.Cert}
	for _, a := range v.all {
		if a.ID != v.active.ID {
			others = append(others, a.Cert)
			want = append(want, a.Cert)
		}
	}
	if slices.EqualFunc(k.id.TrustedCertificates(), want, bytes.Equal) {
		return nil
	}
	if err := k.id.Trust(v.active.Cert, others); err != nil {
		return err
	}
	k.log.Info("trusts certificate authorities", "signs", v.active.ID[:8], "others", len(others))
	return nil
}

// keys gets the keys that this host should hold, or forgets those that it should not.
func (k *authorityKeeper) keys(ctx context.Context, v view) error {
	for _, a := range []placement.Authority{v.active, v.next} {
		if a.ID == "" || !v.voter {
			continue
		}
		held, err := k.holds(a)
		if err != nil {
			return err
		}
		if held {
			continue
		}
		if k.due("fetch "+a.ID, keyRetry) {
			err = k.fetchKey(ctx, v, a)
		}
		if err != nil {
			return err
		}
	}
	if v.voter || !k.id.HoldsKeys() || len(v.voters) == 0 || !k.due("forget", keyRetry) {
		return nil
	}
	for _, a := range []placement.Authority{v.active, v.next} {
		if a.ID != "" && !k.mostHold(ctx, v, a) {
			return nil
		}
	}
	if now := k.look(); now.voter || now.active.ID != v.active.ID || now.next.ID != v.next.ID {
		return nil
	}
	k.log.Info("forgets the key of the certificate authority: this host does not vote")
	return k.id.ForgetKeys()
}

// due says whether a pause has passed since something was tried, and if so begins the next one.
func (k *authorityKeeper) due(what string, pause time.Duration) bool {
	if last, ok := k.tried[what]; ok && time.Since(last) < pause {
		return false
	}
	maps.DeleteFunc(k.tried, func(_ string, at time.Time) bool { return time.Since(at) > pause })
	k.tried[what] = time.Now()
	return true
}

func (k *authorityKeeper) holds(a placement.Authority) (bool, error) {
	pin, err := pki.PinOf(a.Cert)
	if err != nil {
		return false, err
	}
	key, err := k.id.HeldKey(pin)
	return key != nil, err
}

// fetchKey asks the others for the key of an authority.
func (k *authorityKeeper) fetchKey(ctx context.Context, v view, a placement.Authority) error {
	pin, err := pki.PinOf(a.Cert)
	if err != nil {
		return err
	}
	for _, host := range k.whoHolds(v, a) {
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		_, key, err := k.peers.AuthorityKey(ctx, host, a.ID)
		cancel()
		if err != nil || len(key) == 0 {
			continue
		}
		if err := k.id.HoldKey(pin, key); err != nil {
			return err
		}
		k.log.Info("holds the key of a certificate authority", "authority", a.ID[:8], "from", host.Name)
		return nil
	}
	return nil // the leader notices if nobody has it
}

// whoHolds returns the other hosts in the order in which they are likely to hold a key: its maker, then those that vote.
func (k *authorityKeeper) whoHolds(v view, a placement.Authority) []placement.Host {
	hosts := slices.DeleteFunc(slices.Clone(v.hosts), func(h placement.Host) bool { return h.ID == k.self || !h.State.Serves() })
	rank := func(h placement.Host) int {
		switch {
		case h.ID == a.By:
			return 0
		case slices.Contains(v.voters, h.ID):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(hosts, func(a, b placement.Host) int { return rank(a) - rank(b) })
	return hosts
}

// nobodyHolds says whether every other member answers that it does not hold the key of an authority: then nobody who has
// it is merely late.
func (k *authorityKeeper) nobodyHolds(ctx context.Context, a placement.Authority, members []placement.Host) bool {
	for _, host := range members {
		if host.ID == k.self {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		held, _, err := k.peers.AuthorityKey(ctx, host, a.ID)
		cancel()
		if err != nil || held {
			return false
		}
	}
	return true
}

// mostHold asks whether more than half of the voters hold the key of an authority.
func (k *authorityKeeper) mostHold(ctx context.Context, v view, a placement.Authority) bool {
	hold := 0
	for _, host := range v.hosts {
		if !slices.Contains(v.voters, host.ID) {
			continue
		}
		if host.ID == k.self {
			if own, err := k.holds(a); err == nil && own {
				hold++
			}
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		held, _, err := k.peers.AuthorityKey(ctx, host, a.ID)
		cancel()
		if err == nil && held {
			hold++
		}
	}
	return hold > len(v.voters)/2
}

// renew has this host's certificate renewed if that is due.
func (k *authorityKeeper) renew(ctx context.Context) error {
	if !k.id.NeedsRenewal() || !k.id.CA().Signs() && !k.due("renew", renewRetry) {
		return nil
	}
	err := k.renewNow(ctx)
	k.findings.Renewed(err)
	if err != nil {
		return fmt.Errorf("renew this host's certificate, which expires at %s: %w", k.id.Expires().UTC().Format(time.RFC3339), err)
	}
	k.log.Info("renewed this host's certificate", "expires", k.id.Expires())
	return nil
}

func (k *authorityKeeper) renewNow(ctx context.Context) error {
	if k.id.CA().Signs() {
		return k.id.Renew()
	}
	csr, err := k.id.CSR()
	if err != nil {
		return err
	}
	signed, err := k.control.HostOps.Sign(ctx, csr)
	if err != nil {
		return err
	}
	return k.id.Use(signed.Certificate)
}

// tell tells the catalogue which authority has signed this host's certificate.
func (k *authorityKeeper) tell(ctx context.Context, v view) error {
	pin, ok := k.id.SignedBy()
	if id := hex.EncodeToString(pin[:]); ok && v.self.Authority != id {
		_, err := k.node.Apply(ctx, placement.Command{UpdateHost: &placement.UpdateHost{ID: k.self, Authority: id}})
		return err
	}
	return nil
}

// lead is the leader's part.
func (k *authorityKeeper) lead(ctx context.Context, v view) error {
	if v.next.ID != "" {
		return k.leadNext(ctx, v)
	}
	k.waiting = ""
	for _, a := range v.all {
		if a.State == placement.FormerAuthority && (replaced(v) || time.Since(time.Unix(a.Since, 0)) > formerPatience) {
			return k.set(ctx, placement.SetAuthority{ID: a.ID, To: placement.GoneAuthority})
		}
	}
	return k.leadKeyless(ctx, v)
}

// replaced says whether every host that is up has a certificate of the authority that signs.
func replaced(v view) bool {
	return !slices.ContainsFunc(v.hosts, func(h placement.Host) bool { return h.State.Serves() && h.Authority != v.active.ID })
}

// leadNext makes the next authority sign, or gives it up.
func (k *authorityKeeper) leadNext(ctx context.Context, v view) error {
	if k.waiting != v.next.ID {
		k.waiting, k.since = v.next.ID, time.Now()
	}
	if own, err := k.holds(v.next); err == nil && own && k.mostHold(ctx, v, v.next) {
		return k.set(ctx, placement.SetAuthority{ID: v.next.ID, To: placement.ActiveAuthority})
	}
	if time.Since(k.since) > nextPatience {
		return k.set(ctx, placement.SetAuthority{ID: v.next.ID, To: placement.GoneAuthority})
	}
	return nil
}

// leadKeyless replaces an authority whose key nobody holds: that of a cluster which was recovered at a host that had not
// voted, for one.
func (k *authorityKeeper) leadKeyless(ctx context.Context, v view) error {
	if own, err := k.holds(v.active); err != nil || own {
		k.keyless = time.Time{}
		return err
	}
	if k.keyless.IsZero() {
		k.keyless = time.Now()
	}
	if time.Since(k.keyless) < keyPatience && !k.nobodyHolds(ctx, v.active, v.hosts) {
		return nil
	}
	k.log.Warn("no host that answers holds the key of the certificate authority: making another one", "authority", v.active.ID[:8])
	k.keyless = time.Time{}
	_, err := k.control.HostOps.BeginRotation(ctx)
	return reason.Explain(err, "")
}
