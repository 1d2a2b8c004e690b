package placement

import (
	"bytes"
	"fmt"
	"slices"
)

const (
	// MaxAuthorities bounds the certificate authorities that hosts trust at a time.
	MaxAuthorities = 4
	// maxAuthority bounds the certificate of an authority, in bytes; those of package pki have about 400.
	maxAuthority = 4 << 10
	// tokenKeySize is the size of the key by which members know join tokens, in bytes.
	tokenKeySize = 32
)

// AuthorityState is what a certificate authority does.
type AuthorityState string

// The states of an authority, in the order in which it goes through them. Hosts trust it in each but the last, in which
// the catalogue does not know it any more.
const (
	NextAuthority   AuthorityState = "next"   // it will sign, once enough hosts hold its key
	ActiveAuthority AuthorityState = "active" // it signs
	FormerAuthority AuthorityState = "former" // another one signs by now
	GoneAuthority   AuthorityState = "gone"   // nobody trusts it
)

// Authority is a certificate authority of the cluster. Its key is not in the catalogue: hosts that vote hold it.
type Authority struct {
	ID       string         `json:"id"`    // its pin: 64 hex digits
	Cert     []byte         `json:"cert"`  // DER
	State    AuthorityState `json:"state"` // next, active or former
	Since    int64          `json:"since"` // unix seconds: when it came into this state
	TokenKey []byte         `json:"token_key"`
	By       HostID         `json:"by,omitempty"` // the host that made it
}

// SetAuthority moves a certificate authority on: to next or, if there is none yet, to active, with its certificate; from
// next to active, by which the one that was active becomes a former one; from next or former to gone. ErrAuthority if it
// cannot go there.
//
// Idempotent: the authority is there after the first.
type SetAuthority struct {
	ID       string         `json:"id"`
	Cert     []byte         `json:"cert,omitempty"`      // DER, with the first state
	TokenKey []byte         `json:"token_key,omitempty"` // 32 bytes, with the first state
	To       AuthorityState `json:"to"`
	By       HostID         `json:"by,omitempty"`
	Now      int64          `json:"now"` // unix seconds
}

func (c *SetAuthority) validate() error {
	if len(c.ID) != 64 || !isHex(c.ID) {
		return fmt.Errorf("authority %.80q: its id is not 64 hex digits: %w", c.ID, ErrBadCommand)
	}
	first := len(c.Cert) > 0
	if len(c.Cert) > maxAuthority || first != (len(c.TokenKey) == tokenKeySize) || !first && len(c.TokenKey) > 0 {
		return fmt.Errorf("authority %.8s: %d bytes of certificate, %d of key: %w", c.ID, len(c.Cert), len(c.TokenKey), ErrBadCommand)
	}
	switch c.To {
	case NextAuthority, ActiveAuthority, GoneAuthority:
		return nil
	}
	return fmt.Errorf("authority %.8s to %.40q: %w", c.ID, c.To, ErrBadCommand)
}

func (s *State) setAuthority(c *SetAuthority) (bool, error) {
	at := slices.IndexFunc(s.authorities, func(a Authority) bool { return a.ID == c.ID })
	refused := func(why string) (bool, error) {
		return false, fmt.Errorf("make certificate authority %.8s %s: %s: %w", c.ID, c.To, why, ErrAuthority)
	}
	var was AuthorityState
	if at >= 0 {
		was = s.authorities[at].State
	}
	all := slices.Clone(s.authorities)
	fresh := Authority{ID: c.ID, Cert: c.Cert, TokenKey: c.TokenKey, State: c.To, Since: c.Now, By: c.By}
	switch {
	case was == c.To || at < 0 && c.To == GoneAuthority:
		return false, nil
	case at < 0 && len(c.Cert) == 0:
		return refused("it is not known")
	case at < 0 && len(all) >= MaxAuthorities:
		return refused(fmt.Sprintf("%d are trusted already", len(all)))
	case at < 0 && c.To == ActiveAuthority:
		if len(all) > 0 {
			return refused("another one signs")
		}
		all = append(all, fresh)
	case at < 0:
		if len(all) == 0 {
			return refused("the catalogue does not know yet which one signs")
		}
		if slices.ContainsFunc(all, func(a Authority) bool { return a.State == NextAuthority }) {
			return refused("another one is on its way")
		}
		all = append(all, fresh)
	case was == NextAuthority && c.To == ActiveAuthority:
		for i := range all {
			if all[i].State == ActiveAuthority {
				all[i].State, all[i].Since = FormerAuthority, c.Now
			}
		}
		all[at].State, all[at].Since = c.To, c.Now
	case c.To == GoneAuthority && was != ActiveAuthority:
		all = slices.Delete(all, at, at+1)
	default:
		return refused("it is " + string(was))
	}
	s.authorities = all
	return true, nil
}

// Authorities returns the certificate authorities that hosts trust, the oldest first; none before cluster version 4, or
// as long as the leader has not entered the first.
func (s *State) Authorities() []Authority { return slices.Clone(s.authorities) }

// Signing returns the authority that signs.
func (s *State) Signing() (Authority, bool) { return s.authority(ActiveAuthority) }

func (s *State) authority(in AuthorityState) (Authority, bool) {
	for _, a := range s.authorities {
		if a.State == in {
			return a, true
		}
	}
	return Authority{}, false
}

// validateAuthorities checks those of a snapshot.
func validateAuthorities(all []Authority) error {
	signing := 0
	for i, a := range all {
		c := SetAuthority{ID: a.ID, Cert: a.Cert, TokenKey: a.TokenKey, To: a.State}
		if a.State == FormerAuthority {
			c.To = ActiveAuthority
		}
		if err := c.validate(); err != nil {
			return err
		}
		if len(a.Cert) == 0 || a.State == GoneAuthority || i > 0 && bytes.Equal(a.Cert, all[i-1].Cert) {
			return fmt.Errorf("authority %.8s: %w", a.ID, ErrBadCommand)
		}
		if a.State == ActiveAuthority {
			signing++
		}
	}
	if len(all) > MaxAuthorities || len(all) > 0 && signing != 1 {
		return fmt.Errorf("%d authorities, of which %d sign: %w", len(all), signing, ErrBadCommand)
	}
	return nil
}
