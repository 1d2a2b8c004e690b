package control

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// defaultTokenLife is how long a join token is good, maxTokenLife the longest that may be asked for.
	defaultTokenLife = time.Hour
	maxTokenLife     = 30 * 24 * time.Hour
)

// Invitation is what a new host needs to join.
type Invitation struct {
	Token     string
	Expires   time.Time
	Addresses []string // of members that are up, this one first
}

// CreateToken makes a token that admits one host within its life; 0 means an hour.
func (h *Hosts) CreateToken(ctx context.Context, life time.Duration) (Invitation, error) {
	if life > maxTokenLife {
		return Invitation{}, reason.Wrap(reason.Usage, "`ttl`", fmt.Errorf("at most %s", maxTokenLife))
	}
	life = cmp.Or(life, defaultTokenLife)
	token, err := h.Identity.CA().NewToken(life, h.tokenKey())
	if err != nil {
		return Invitation{}, reason.Explain(err, "")
	}
	hash := token.Hash()
	cmd := &placement.CreateToken{
		ID: hex.EncodeToString(token.ID[:]), Hash: hex.EncodeToString(hash[:]), Expires: token.Expires.Unix(), Now: h.Now().Unix(),
	}
	h.Node.View(func(s *placement.State) {
		if s.Version() >= 3 {
			cmd.By = h.Self
		}
	})
	if _, err := h.write(ctx, placement.Command{CreateToken: cmd}, ""); err != nil {
		return Invitation{}, err
	}
	r := Invitation{Token: token.Encode(), Expires: token.Expires, Addresses: []string{h.Advertise}}
	h.Node.View(func(s *placement.State) {
		for _, host := range s.Hosts() {
			if host.State == placement.Alive && host.ID != h.Self {
				r.Addresses = append(r.Addresses, host.Addr)
			}
		}
	})
	return r, nil
}
