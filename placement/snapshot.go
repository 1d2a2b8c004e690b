package placement

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A snapshot is gzip around lines of JSON, one record a line, so that `zcat FILE | jq` shows the catalogue:
//
//	{"catalogue":{"version":5,"applied":…,"removed":…,"moved":…,"cluster":"…","recoveries":[…],"cluster_version":…,
//	  "authorities":[…]}}
//	{"host":{…}}       sorted by id
//	{"gone":{…}}       removed hosts, sorted by id
//	{"token":{…}}      sorted by id
//	{"file":{…}}       sorted by name
//	{"content":{…}}    sorted by id
//	{"tickets":{…}}    of a host, sorted by host
//	{"domain":{…}}     who claims it, sorted by UUID
//	{"end":{"records":N,"sha256":"…"}}
//
// The sum is over all lines before it. The lines of equal catalogues are equal; the compressed bytes need
// not be.
//
// Versions 1 to 4 are read too: 4 had no recoveries, no lives and versions of hosts and no cluster version, 3 no
// domains and tags, 2 no tickets, and 1 no limits of hosts and no host that was lost. What a later cluster version adds
// stands in a snapshot only once the cluster has that version, so that the hosts of the release before can read it.
const (
	snapshotVersion = 5
	oldestSnapshot  = 1
)

const (
	// maxSnapshotLine bounds a record. The longest is that of the largest content, its shards scattered over all hosts:
	// some 25 MiB for three replicas.
	maxSnapshotLine = 256 << 20
	// maxSnapshot bounds a snapshot before compression, against a bomb: MaxNames files take about 3 GiB.
	maxSnapshot = 32 << 30
)

type snapshotLine struct {
	Catalogue *snapshotHead    `json:"catalogue,omitempty"`
	Host      *Host            `json:"host,omitempty"`
	Gone      *snapshotGone    `json:"gone,omitempty"`
	Token     *Token           `json:"token,omitempty"`
	File      *snapshotFile    `json:"file,omitempty"`
	Content   *snapshotContent `json:"content,omitempty"`
	Tickets   *snapshotTickets `json:"tickets,omitempty"`
	Domain    *snapshotDomain  `json:"domain,omitempty"`
	End       *snapshotEnd     `json:"end,omitempty"`
}

type snapshotHead struct {
	Version int    `json:"version"`
	Applied uint64 `json:"applied"`
	Removed uint64 `json:"removed"`
	Moved   uint64 `json:"moved"`
	Cluster string `json:"cluster"`

	Recoveries []Recovery `json:"recoveries,omitempty"`

	ClusterVersion int `json:"cluster_version,omitempty"`

	Authorities []Authority `json:"authorities,omitempty"` // since cluster version 4
}

type snapshotGone struct {
	ID    HostID `json:"id"`
	Index uint64 `json:"index"`
}

type snapshotFile struct {
	Name     string    `json:"name"`
	Versions []Version `json:"versions"`
}

type snapshotContent struct {
	ID        content.Digest    `json:"id"`
	Size      int64             `json:"size"`
	DataBytes int64             `json:"data_bytes"`
	ChunkSize int               `json:"chunk_size"`
	Targets   Targets           `json:"targets,omitzero"`
	Holders   []snapshotHolding `json:"holders,omitempty"`
	Changed   uint64            `json:"changed"`
}

type snapshotHolding struct {
	Host   HostID   `json:"host"`
	Shards ShardSet `json:"shards"`
}

type snapshotTickets struct {
	Host HostID    `json:"host"`
	Done []settled `json:"done"`
}

type snapshotDomain struct {
	UUID    string  `json:"uuid"`
	Changed uint64  `json:"changed"`
	Claims  []claim `json:"claims"`
}

type snapshotEnd struct {
	Records int    `json:"records"`
	Sum     string `json:"sha256"` // hex
}

// Frozen is a picture of the catalogue that later commands do not change. It is safe for concurrent use.
type Frozen struct {
	head     snapshotHead
	hosts    []*Host
	gone     []snapshotGone
	tokens   []*Token
	files    []*fileRecord
	contents []*contentRecord
	tickets  []snapshotTickets // sorted by host
	domains  []*domainRecord
}

// Freeze takes a picture. It copies pointers only: about a millisecond for 10,000 files.
func (s *State) Freeze() *Frozen {
	f := &Frozen{head: snapshotHead{snapshotVersion, s.applied, s.removed, s.moved, s.cluster, s.recoveries, s.version, s.authorities}}
	for _, id := range s.hostIDs {
		f.hosts = append(f.hosts, s.hosts[id])
	}
	for _, id := range s.hostIDs {
		if done := s.tickets[id]; len(done) > 0 {
			f.tickets = append(f.tickets, snapshotTickets{id, done})
		}
	}
	for id, index := range s.gone {
		f.gone = append(f.gone, snapshotGone{id, index})
	}
	for _, t := range s.tokens {
		f.tokens = append(f.tokens, t)
	}
	f.files = make([]*fileRecord, 0, len(s.names))
	for _, name := range s.names {
		f.files = append(f.files, s.files[name])
	}
	f.contents = make([]*contentRecord, 0, len(s.contents))
	for _, c := range s.contents {
		f.contents = append(f.contents, c)
	}
	for _, d := range s.domains {
		f.domains = append(f.domains, d)
	}
	return f
}

// WriteTo writes the picture as a snapshot.
func (f *Frozen) WriteTo(w io.Writer) (int64, error) {
	sorted := f.sorted()
	count := &countWriter{w: w}
	zip, err := gzip.NewWriterLevel(count, gzip.BestSpeed)
	if err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	if err := sorted.writeLines(zip); err != nil {
		return count.n, fmt.Errorf("write snapshot: %w", err)
	}
	if err := zip.Close(); err != nil {
		return count.n, fmt.Errorf("write snapshot: %w", err)
	}
	return count.n, nil
}

// sorted returns the picture with every kind of record in order. (Freeze runs while the catalogue stands still and
// leaves this to the writer.)
func (f *Frozen) sorted() *Frozen {
	n := *f
	n.gone, n.tokens, n.contents = slices.Clone(f.gone), slices.Clone(f.tokens), slices.Clone(f.contents)
	slices.SortFunc(n.gone, func(a, b snapshotGone) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(n.tokens, func(a, b *Token) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(n.contents, func(a, b *contentRecord) int { return bytes.Compare(a.id[:], b.id[:]) })
	n.domains = slices.Clone(f.domains)
	slices.SortFunc(n.domains, func(a, b *domainRecord) int { return cmp.Compare(a.uuid, b.uuid) })
	return &n
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (f *Frozen) writeLines(w io.Writer) error {
	sum := sha256.New()
	enc := json.NewEncoder(io.MultiWriter(w, sum))
	enc.SetEscapeHTML(false)
	records := 0
	for l := range f.lines {
		if err := enc.Encode(l); err != nil {
			return err
		}
		records++
	}
	end := snapshotEnd{Records: records, Sum: hex.EncodeToString(sum.Sum(nil))}
	return json.NewEncoder(w).Encode(snapshotLine{End: &end})
}

// lines yields the records in the order of the format.
func (f *Frozen) lines(yield func(snapshotLine) bool) {
	if !yield(snapshotLine{Catalogue: &f.head}) {
		return
	}
	for _, h := range f.hosts {
		if !yield(snapshotLine{Host: h}) {
			return
		}
	}
	for _, g := range f.gone {
		if !yield(snapshotLine{Gone: &g}) {
			return
		}
	}
	for _, t := range f.tokens {
		if !yield(snapshotLine{Token: t}) {
			return
		}
	}
	for _, r := range f.files {
		if !yield(snapshotLine{File: &snapshotFile{r.name, r.versions}}) {
			return
		}
	}
	for _, c := range f.contents {
		if !yield(snapshotLine{Content: c.snapshot()}) {
			return
		}
	}
	for _, t := range f.tickets {
		if !yield(snapshotLine{Tickets: &t}) {
			return
		}
	}
	for _, d := range f.domains {
		if !yield(snapshotLine{Domain: &snapshotDomain{d.uuid, d.view.Changed, d.claims}}) {
			return
		}
	}
}

func (c *contentRecord) snapshot() *snapshotContent {
	sc := &snapshotContent{
		ID: c.id, Size: c.size, DataBytes: c.dataBytes, ChunkSize: c.chunkSize, Targets: c.targets, Changed: c.changed,
	}
	for _, h := range c.holders {
		sc.Holders = append(sc.Holders, snapshotHolding(h))
	}
	return sc
}
