package placement

import (
	"fmt"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Validate checks what can be checked without the catalogue, so that a bad command is refused where it is made and
// never reaches the log.
func (c Command) Validate() error {
	switch {
	case c.Kind() == "":
		return fmt.Errorf("not exactly one command: %w", ErrBadCommand)
	case c.Ticket.validate() != nil:
		return c.Ticket.validate()
	case c.InitCluster != nil:
		return c.InitCluster.validate()
	case c.AddHost != nil:
		return c.AddHost.validate()
	case c.UpdateHost != nil:
		return c.UpdateHost.validate()
	case c.SetHostState != nil:
		return c.SetHostState.validate()
	case c.CreateToken != nil:
		return c.CreateToken.validate()
	case c.Publish != nil:
		return c.Publish.validate()
	case c.Adopt != nil:
		return c.Adopt.validate()
	case c.Distribute != nil:
		return validateTargets("distribute", c.Distribute.Name, c.Distribute.All, c.Distribute.Hosts, c.Distribute.Tags)
	case c.Unpin != nil:
		return validateTargets("unpin", c.Unpin.Name, c.Unpin.All, c.Unpin.Hosts, c.Unpin.Tags)
	case c.Report != nil:
		return c.Report.validate()
	case c.ReportDomains != nil:
		return c.ReportDomains.validate()
	case c.RaiseVersion != nil:
		return c.RaiseVersion.validate()
	case c.SetAuthority != nil:
		return c.SetAuthority.validate()
	}
	return nil // RemoveHost and RemoveFile name something that is there or is not
}

func (c *InitCluster) validate() error {
	if c.ID == "" || len(c.ID) > maxClusterID {
		return fmt.Errorf("cluster id %.80q: must have 1 to %d bytes: %w", c.ID, maxClusterID, ErrBadCommand)
	}
	for _, b := range []byte(c.ID) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return fmt.Errorf("cluster id %q: has %q: %w", c.ID, b, ErrBadCommand)
		}
	}
	return validateHost(c.Host)
}

func (c *AddHost) validate() error {
	if err := validateTokenID(c.TokenID); err != nil {
		return err
	}
	return validateHost(c.Host)
}

func (c *UpdateHost) validate() error {
	// High and Low are compared with each other where they are applied, as one of them may stay as it is.
	limits := Limits{Up: deref(c.Up), Down: deref(c.Down), Quota: deref(c.Quota)}
	for _, percent := range []*int{c.High, c.Low} {
		if p := deref(percent); p < 0 || p > 100 {
			return fmt.Errorf("host %q: watermark of %d %%: %w", c.ID, p, ErrInvalidHost)
		}
	}
	if c.Authority != "" && (len(c.Authority) != 64 || !isHex(c.Authority)) {
		return fmt.Errorf("host %q: authority %.80q is not 64 hex digits: %w", c.ID, c.Authority, ErrInvalidHost)
	}
	if err := validateLabels(c.ID, c.Relabel); err != nil {
		return err
	}
	h := Host{ID: c.ID, Name: "unchanged", Addr: "unchanged:1", Weight: c.Weight, Labels: c.Labels, Limits: limits}
	if c.Name != "" {
		h.Name = c.Name
	}
	if c.Addr != "" {
		h.Addr = c.Addr
	}
	return validateHost(h)
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (c *SetHostState) validate() error {
	for _, s := range []HostState{c.From, c.To} {
		if !s.Known() && (s != "" || c.To == "") {
			return fmt.Errorf("host %q: unknown state %.80q: %w", c.ID, s, ErrBadCommand)
		}
	}
	return nil
}

func (c *CreateToken) validate() error {
	if err := validateTokenID(c.ID); err != nil {
		return err
	}
	if len(c.Hash) != 64 || !isHex(c.Hash) {
		return fmt.Errorf("token %s: its hash is not 64 hex digits: %w", c.ID, ErrBadCommand)
	}
	return nil
}

func validateTokenID(id string) error {
	if len(id) < 8 || len(id) > maxTokenID || !isHex(id) {
		return fmt.Errorf("token id %.80q: must be 8 to %d hex digits: %w", id, maxTokenID, ErrBadCommand)
	}
	return nil
}

func (c *Publish) validate() error {
	if err := ValidateName(c.Name); err != nil {
		return err
	}
	if c.Guests != "" {
		if err := ValidateGuests(c.Guests); err != nil {
			return err
		}
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("file %q: %s: %w", c.Name, fmt.Sprintf(format, args...), ErrInvalidFile)
	}
	switch {
	case c.ID.IsZero():
		return fail("no digest")
	case c.ChunkSize < content.MinChunkSize || c.ChunkSize > content.MaxChunkSize || c.ChunkSize&(c.ChunkSize-1) != 0:
		return fail("chunk size %d", c.ChunkSize)
	case c.Size < 0 || c.Size > int64(c.ChunkSize)*content.MaxChunks:
		return fail("size %d", c.Size)
	case c.DataBytes < 0 || c.DataBytes > c.Size:
		return fail("%d bytes of data in %d", c.DataBytes, c.Size)
	case c.Shards != shardsOf(c.Size) && (c.Size != 0 || c.Shards != 0):
		return fail("%d shards in %d bytes, must be %d", c.Shards, c.Size, shardsOf(c.Size))
	case c.Replicas < 0 || c.Replicas > MaxReplicas:
		return fail("%d replicas, at most %d", c.Replicas, MaxReplicas)
	}
	return nil
}

// shardsOf is the number of shards of a content; an empty one counts as one.
func shardsOf(size int64) int {
	return int(max((size+content.ShardSize-1)/content.ShardSize, 1))
}

// validateTargets checks who is meant by a Distribute or Unpin.
func validateTargets(verb, name string, all bool, hosts []HostID, tags []string) error {
	switch {
	case !all && len(hosts)+len(tags) == 0:
		return fmt.Errorf("%s %q: no host: %w", verb, name, ErrBadCommand)
	case len(tags) > MaxTags:
		return fmt.Errorf("%s %q: %d tags, at most %d: %w", verb, name, len(tags), MaxTags, ErrTooMany)
	case all && len(hosts)+len(tags) != 0:
		return fmt.Errorf("%s %q: all and some: %w", verb, name, ErrBadCommand)
	case len(hosts) > MaxHosts:
		return fmt.Errorf("%s %q: %d hosts, at most %d: %w", verb, name, len(hosts), MaxHosts, ErrTooMany)
	}
	for _, tag := range tags {
		if err := ValidateTag(tag); err != nil {
			return fmt.Errorf("%s %q: %w", verb, name, err)
		}
	}
	return nil
}

func (c *Report) validate() error {
	if n := max(len(c.Holdings), len(c.Dropped)); n > MaxHoldings {
		return fmt.Errorf("report of %q: %d contents, at most %d: %w", c.Host, n, MaxHoldings, ErrTooMany)
	}
	return nil
}
