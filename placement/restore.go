package placement

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
)

// Restore reads a snapshot into a new catalogue, equal to the one that was frozen. Whatever is wrong with it gives
// ErrBadSnapshot with the line where it was noticed. It reads no further than the end of the snapshot promises.
func Restore(r io.Reader) (*State, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("restore: %w: not gzip: %v", ErrBadSnapshot, err)
	}
	return restoreLines(io.LimitReader(zip, maxSnapshot))
}

// restoreLines reads the lines of a snapshot.
func restoreLines(r io.Reader) (*State, error) {
	p := &restorer{s: New(), sum: sha256.New(), lines: bufio.NewScanner(r)}
	p.lines.Buffer(make([]byte, 64<<10), maxSnapshotLine)
	p.lines.Split(wholeLines)
	if err := p.run(); err != nil {
		return nil, fmt.Errorf("restore: %w: line %d: %w", ErrBadSnapshot, p.records+1, err)
	}
	return p.s, nil
}

// wholeLines is bufio.ScanLines, but keeps the newline (it is part of the sum) and refuses a last line without one.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}

type restorer struct {
	s       *State
	sum     hash.Hash
	lines   *bufio.Scanner
	records int
	last    string // kind and key of the record before: they ascend
}

func (p *restorer) run() error {
	for p.lines.Scan() {
		raw := p.lines.Bytes()
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		var l snapshotLine
		if err := d.Decode(&l); err != nil {
			return err
		}
		if l.End != nil {
			return p.end(l.End)
		}
		if err := p.take(l); err != nil {
			return err
		}
		p.sum.Write(raw)
		p.records++
	}
	if err := p.lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

func (p *restorer) end(e *snapshotEnd) error {
	switch {
	case e.Records != p.records:
		return fmt.Errorf("%d records, should be %d", p.records, e.Records)
	case e.Sum != hex.EncodeToString(p.sum.Sum(nil)):
		return errors.New("checksum mismatch")
	case p.records == 0:
		return errors.New("no head")
	}
	if p.lines.Scan() {
		return errors.New("bytes after the end")
	}
	if err := p.lines.Err(); err != nil {
		return err // gzip's own checksum
	}
	return p.finish()
}

// take adds a record. Kinds come in the order of the format and keys ascend within each, so that nothing comes twice.
func (p *restorer) take(l snapshotLine) error {
	var kind, key string
	var err error
	switch {
	case l.Catalogue != nil:
		kind, err = "0", p.head(l.Catalogue)
	case l.Host != nil:
		kind, key, err = "1", string(l.Host.ID), p.host(l.Host)
	case l.Gone != nil:
		kind, key, err = "2", string(l.Gone.ID), p.gone(l.Gone)
	case l.Token != nil:
		kind, key, err = "3", l.Token.ID, p.token(l.Token)
	case l.File != nil:
		kind, key, err = "4", l.File.Name, p.file(l.File)
	case l.Content != nil:
		kind, key, err = "5", l.Content.ID.Hex(), p.content(l.Content)
	case l.Tickets != nil:
		kind, key, err = "6", string(l.Tickets.Host), p.tickets(l.Tickets)
	case l.Domain != nil:
		kind, key, err = "7", l.Domain.UUID, p.domain(l.Domain)
	default:
		return errors.New("unknown record")
	}
	if err != nil {
		return err
	}
	this := kind + key
	if this <= p.last || (p.records == 0) != (kind == "0") {
		return fmt.Errorf("record %.80q out of order", key)
	}
	p.last = this
	return nil
}

func (p *restorer) head(h *snapshotHead) error {
	if err := canRead(h.ClusterVersion); err != nil {
		return err
	}
	if h.Version > snapshotVersion {
		return fmt.Errorf("format %d, this program reads %d to %d: %w", h.Version, oldestSnapshot, snapshotVersion, ErrNewer)
	}
	if h.Version < oldestSnapshot || h.ClusterVersion < 0 {
		return fmt.Errorf("format %d, this program reads %d to %d", h.Version, oldestSnapshot, snapshotVersion)
	}
	if len(h.Recoveries) > MaxRecoveries || h.Version < 5 && len(h.Recoveries) > 0 {
		return fmt.Errorf("%d recoveries", len(h.Recoveries))
	}
	for _, r := range h.Recoveries {
		if err := r.validate(); err != nil {
			return err
		}
	}
	p.s.applied, p.s.removed, p.s.moved, p.s.cluster, p.s.recoveries = h.Applied, h.Removed, h.Moved, h.Cluster, h.Recoveries
	p.s.version = h.ClusterVersion
	if err := validateAuthorities(h.Authorities); err != nil {
		return err
	}
	p.s.authorities = h.Authorities
	for _, a := range h.Authorities {
		p.s.noteTime(a.Since)
	}
	return nil
}

func (p *restorer) host(h *Host) error {
	if err := validateHost(*h); err != nil {
		return err
	}
	if h.Weight == 0 || !h.State.Known() {
		return fmt.Errorf("host %q: weight %d, state %.80q", h.ID, h.Weight, h.State)
	}
	if len(p.s.hosts) >= MaxHosts {
		return ErrTooMany
	}
	if err := p.s.nameFree(h.Name, h.ID); err != nil {
		return err
	}
	p.s.putHost(h)
	p.s.noteTime(max(h.At, h.JoinAt))
	return nil
}

func (p *restorer) gone(g *snapshotGone) error {
	if !g.ID.Valid() || p.s.hosts[g.ID] != nil || len(p.s.gone) >= MaxGone {
		return fmt.Errorf("removed host %.80q", g.ID)
	}
	p.s.gone[g.ID] = g.Index
	return nil
}

func (p *restorer) token(t *Token) error {
	if len(p.s.tokens) >= MaxTokens {
		return ErrTooMany
	}
	p.s.tokens[t.ID] = t
	return validateTokenID(t.ID)
}

func (p *restorer) file(f *snapshotFile) error {
	if err := ValidateName(f.Name); err != nil {
		return err
	}
	if len(f.Versions) == 0 || len(f.Versions) > MaxVersions || len(p.s.files) >= MaxNames {
		return fmt.Errorf("file %q: %d versions", f.Name, len(f.Versions))
	}
	p.s.files[f.Name] = &fileRecord{f.Name, f.Versions}
	p.s.names = append(p.s.names, f.Name)
	for _, v := range f.Versions {
		p.s.noteTime(v.At)
	}
	return nil
}

func (p *restorer) content(c *snapshotContent) error {
	like := Publish{Name: "content", ID: c.ID, Size: c.Size, DataBytes: c.DataBytes, ChunkSize: c.ChunkSize, Shards: shardsOf(c.Size)}
	if err := like.validate(); err != nil {
		return err
	}
	rec := &contentRecord{
		id: c.ID, size: c.Size, dataBytes: c.DataBytes, chunkSize: c.ChunkSize, shards: shardsOf(c.Size),
		targets: c.Targets, changed: c.Changed,
	}
	for i, t := range c.Targets.Hosts {
		if p.s.hosts[t] == nil || c.Targets.All || (i > 0 && t <= c.Targets.Hosts[i-1]) {
			return fmt.Errorf("content %s: target %q", c.ID.Short(), t)
		}
	}
	for i, h := range c.Holders {
		shards, err := h.Shards.within(rec.shards)
		if err != nil || shards.Empty() || p.s.hosts[h.Host] == nil || (i > 0 && h.Host <= c.Holders[i-1].Host) {
			return fmt.Errorf("content %s: holder %q", c.ID.Short(), h.Host)
		}
		rec.holders = append(rec.holders, Holder{h.Host, shards})
	}
	if err := validateTags(c.Targets.Tags); err != nil {
		return fmt.Errorf("content %s: %w", c.ID.Short(), err)
	}
	p.s.contents[c.ID] = rec
	return nil
}

func (p *restorer) domain(d *snapshotDomain) error {
	if len(d.Claims) == 0 || d.Changed > p.s.applied || len(p.s.domains) >= MaxDomains {
		return fmt.Errorf("domain %.80q: %d claims, changed at %d", d.UUID, len(d.Claims), d.Changed)
	}
	for i, c := range d.Claims {
		if err := c.Domain.validate(); err != nil {
			return err
		}
		if p.s.hosts[c.Host] == nil || c.Domain.UUID != d.UUID || c.Since > p.s.applied || (i > 0 && c.Host <= d.Claims[i-1].Host) {
			return fmt.Errorf("domain %s: claim of host %.80q", d.UUID, c.Host)
		}
		if p.s.claimed[c.Host] == nil {
			p.s.claimed[c.Host] = map[string]bool{}
		}
		p.s.claimed[c.Host][d.UUID] = true
	}
	n := &domainRecord{uuid: d.UUID, claims: d.Claims, view: p.s.view(d.Claims)}
	n.view.Changed = d.Changed
	p.s.domains[d.UUID] = n
	return nil
}

func (p *restorer) tickets(t *snapshotTickets) error {
	if p.s.hosts[t.Host] == nil || len(t.Done) == 0 || len(t.Done) > MaxTickets {
		return fmt.Errorf("%d tickets of host %.80q", len(t.Done), t.Host)
	}
	last := uint64(0)
	for _, d := range t.Done {
		if d.Number <= last || d.Index > p.s.applied || d.Refused != "" && codes[d.Refused] == nil {
			return fmt.Errorf("ticket %d of host %q after %d, used at %d, refused as %.80q", d.Number, t.Host, last, d.Index, d.Refused)
		}
		last = d.Number
	}
	p.s.tickets[t.Host] = t.Done
	return nil
}

// finish derives what a snapshot does not carry: who refers to which content, the change log, the ring, and where tags
// run.
func (p *restorer) finish() error {
	s := p.s
	s.domainLog.from = s.applied
	for _, d := range s.domains {
		s.tags.count(d.view, 1)
	}
	for id, c := range s.contents {
		s.tags.tag(id, nil, c.targets.Tags)
		c.follows = s.tags.hostsOf(c.targets.Tags)
	}
	for _, name := range s.names {
		for _, v := range s.files[name].versions {
			c := s.contents[v.ID]
			if c == nil || c.size != v.Size {
				return fmt.Errorf("file %q: its version %s has no content", name, v.ID.Short())
			}
			c.names = insertSorted(c.names, name)
		}
	}
	order := make([]*contentRecord, 0, len(s.contents))
	for _, c := range s.contents {
		if len(c.names) == 0 || c.changed > s.applied {
			return fmt.Errorf("content %s: no name, or changed at %d", c.id.Short(), c.changed)
		}
		c.replicas = s.replicasOf(c)
		order = append(order, c)
	}
	slices.SortFunc(order, func(a, b *contentRecord) int {
		return cmp.Or(cmp.Compare(a.changed, b.changed), bytes.Compare(a.id[:], b.id[:]))
	})
	for _, c := range order {
		s.changes.add(c.changed, c.id)
	}
	s.remap(s.moved)
	return nil
}
