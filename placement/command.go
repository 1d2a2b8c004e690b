package placement

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A Command is one change of the catalogue: exactly one of its fields is set, beside the ticket. It is JSON in the Raft
// log, so that a log can be read by a tired person without tools of ours.
type Command struct {
	V int `json:"v,omitempty"` // the cluster version that it needs: set by EncodeCommand

	InitCluster  *InitCluster  `json:"init_cluster,omitempty"`
	AddHost      *AddHost      `json:"add_host,omitempty"`
	UpdateHost   *UpdateHost   `json:"update_host,omitempty"`
	SetHostState *SetHostState `json:"set_host_state,omitempty"`
	RemoveHost   *RemoveHost   `json:"remove_host,omitempty"`
	CreateToken  *CreateToken  `json:"create_token,omitempty"`
	Publish      *Publish      `json:"publish,omitempty"`
	Adopt        *Adopt        `json:"adopt,omitempty"`
	RemoveFile   *RemoveFile   `json:"remove_file,omitempty"`
	Distribute   *Distribute   `json:"distribute,omitempty"`
	Unpin        *Unpin        `json:"unpin,omitempty"`
	Report       *Report       `json:"report,omitempty"`

	ReportDomains *ReportDomains `json:"report_domains,omitempty"`

	RaiseVersion *RaiseVersion `json:"raise_version,omitempty"`
	SetAuthority *SetAuthority `json:"set_authority,omitempty" since:"4"`

	Ticket *Ticket `json:"ticket,omitempty"` // none: each time that the command comes it is carried out
}

// InitCluster gives a new catalogue its identity and its first host. It is the first command of every log.
//
// Idempotent: a second one with the same cluster id changes nothing; one with another id is ErrOtherCluster.
type InitCluster struct {
	ID   string `json:"id"`   // cluster id, 1..64 of [a-z0-9-]
	Host Host   `json:"host"` // ID, Name, Addr, Weight, Labels, Life, Version and Program count; the rest is set by the catalogue
	Now  int64  `json:"now"`  // unix seconds
}

// AddHost admits a host by a join token, which it uses up.
//
// Idempotent: a repeat finds the token used by the same host and changes nothing. A host that is a member already
// and comes with a fresh token (it was set up again with its old key) is updated.
type AddHost struct {
	Host    Host   `json:"host"` // ID, Name, Addr, Weight, Labels, Version and Program count; the rest is set by the catalogue
	TokenID string `json:"token_id"`
	Now     int64  `json:"now"` // unix seconds
}

// UpdateHost changes what is not the zero value, or nil. An empty, non-nil Labels removes all labels; Relabel then
// sets single ones, and removes those whose value is empty.
//
// Idempotent: it sets values, never adds to them.
type UpdateHost struct {
	ID      HostID            `json:"id"`
	Name    string            `json:"name,omitempty"`
	Addr    string            `json:"addr,omitempty"`
	Weight  uint32            `json:"weight,omitempty"`
	Labels  map[string]string `json:"labels,omitzero"`
	Relabel map[string]string `json:"relabel,omitempty"`
	Up      *int64            `json:"up,omitempty"`      // see Limits; a pointer to 0 lifts a limit
	Down    *int64            `json:"down,omitempty"`    // see Limits
	Quota   *int64            `json:"quota,omitempty"`   // see Limits
	High    *int              `json:"high,omitempty"`    // see Limits
	Low     *int              `json:"low,omitempty"`     // see Limits
	Life    uint64            `json:"life,omitempty"`    // see Host; one below the last is ErrLaterLife
	Version int               `json:"version,omitempty"` // see Host; one below the cluster's is ErrTooOld
	Program string            `json:"program,omitempty"` // see Host

	Authority string `json:"authority,omitempty" since:"4"` // see Host
}

// SetHostState moves a host from state From to state To. If From is not empty and the host is in another state,
// nothing happens: so the leader's Down and Alive never undo an operator's Leaving.
//
// Idempotent: the host is in To after the first.
type SetHostState struct {
	ID   HostID    `json:"id"`
	From HostState `json:"from,omitempty"`
	To   HostState `json:"to"`
	Now  int64     `json:"now"` // unix seconds
}

// RemoveHost ends a membership, and forgets what the host held and the tokens that it made. The last host cannot be
// removed.
//
// A repeat without a ticket gives ErrNoHost, as does one of a host that has removed itself; see Settled.
type RemoveHost struct {
	ID HostID `json:"id"`
}

// CreateToken records a join token by the hash of its secret, and forgets those that have expired.
//
// Idempotent: a token with the same id and hash is left as it is.
type CreateToken struct {
	ID      string `json:"id"`                     // hex, 8..64 digits
	Hash    string `json:"hash"`                   // hex, 64 digits
	Expires int64  `json:"expires"`                // unix seconds
	Now     int64  `json:"now"`                    // unix seconds
	By      HostID `json:"by,omitempty" since:"3"` // the member that made it; with its removal the token is gone
}

// Publish adds a version of a name. The publisher holds all of the content, durably, when it proposes this, and is
// recorded as a holder. If the newest version has the same content already, its policy (replicas, guests) changes
// and no version is added.
//
// Idempotent: a version of the name with the same content, publisher and time is the same publish, even if newer
// versions came in between.
type Publish struct {
	Name      string         `json:"name"`
	ID        content.Digest `json:"id"`
	Size      int64          `json:"size"`       // bytes
	DataBytes int64          `json:"data_bytes"` // bytes that are not holes
	ChunkSize int            `json:"chunk_size"` // bytes
	Shards    int            `json:"shards"`
	Replicas  int            `json:"replicas"`         // copies wanted; 0 = every host
	Guests    string         `json:"guests,omitempty"` // none (default), all, tag:…, a UUID, or a glob over domain names
	Publisher HostID         `json:"publisher"`
	At        int64          `json:"at"` // unix seconds, chosen once, not per attempt
}

// Adopt adds a version of a name that an earlier catalogue had. Unlike Publish it makes nobody a holder (the hosts that
// hold a part report it once the catalogue names the content), its publisher need not be a member, and the version
// takes its place among the others by the time of its publication. Rank says whether that may be the place of the
// newest.
//
// Idempotent: a name that has a version with this content, as its newest or published no earlier, is left as it is.
type Adopt struct {
	Publish
	Rank Rank `json:"rank,omitempty"`
}

// Rank says what happens to a version that is entered late and is, by its time, newer than all others of its name.
type Rank string

const (
	// RankCareful: it is refused with ErrHides if the newest was published in this cluster, by a host that is or was a
	// member. If that one comes from an earlier catalogue as well, it becomes the newest.
	RankCareful Rank = ""
	// RankOlder: as RankCareful, but instead of being refused it becomes the one before the newest.
	RankOlder Rank = "older"
	// RankByTime: it becomes the newest.
	RankByTime Rank = "time"
)

// RemoveFile removes one version of a name, or with a zero ID the name with all versions. A content to which no
// version refers any more disappears, and hosts then drop their data.
//
// A repeat without a ticket gives ErrNoFile, or removes what was published meanwhile.
type RemoveFile struct {
	Name string         `json:"name"`
	ID   content.Digest `json:"id,omitzero"`
}

// Distribute adds hosts that must hold all of a version's content (zero ID: the newest version's), and tags: the hosts
// that run domains of those, now and later.
//
// Idempotent: it adds to a set.
type Distribute struct {
	Name  string         `json:"name"`
	ID    content.Digest `json:"id,omitzero"`
	All   bool           `json:"all,omitempty"`
	Hosts []HostID       `json:"hosts,omitempty"`
	Tags  []string       `json:"tags,omitempty"`
}

// Unpin takes hosts and tags (All: every one) from those that must hold all of a version's content (zero ID: the newest
// version's). What they hold becomes cache, unless they are homes of it. To take one from "every host" leaves the
// other hosts of this moment; hosts that join later are none then.
//
// Idempotent: it takes from a set.
type Unpin struct {
	Name  string         `json:"name"`
	ID    content.Digest `json:"id,omitzero"`
	All   bool           `json:"all,omitempty"`
	Hosts []HostID       `json:"hosts,omitempty"`
	Tags  []string       `json:"tags,omitempty"`
}

// Report says what a host holds, durably, of the contents that it names: it replaces what was known of these.
// Dropped are contents of which it holds nothing any more. Contents unknown to the catalogue are skipped and come
// back in Result.Unknown.
//
// Idempotent: it sets values, never adds to them.
type Report struct {
	Host     HostID           `json:"host"`
	Holdings []Holding        `json:"holdings,omitempty"`
	Dropped  []content.Digest `json:"dropped,omitempty"`
}

// Holding is the shards of one content that a host holds.
type Holding struct {
	ID     content.Digest `json:"id"`
	Shards ShardSet       `json:"shards"`
}

// Settled reports whether err, as the answer to a repeated attempt after one whose outcome is unknown, means that
// the earlier attempt succeeded: the host that was to be removed is gone, and with it its tickets if they were its own.
func (c Command) Settled(err error) bool { return c.RemoveHost != nil && isErr(err, ErrNoHost) }

// Kind is the command's name in the log, "" if it is not exactly one.
func (c Command) Kind() string {
	kind := ""
	for _, k := range [...]struct {
		name string
		set  bool
	}{
		{"init_cluster", c.InitCluster != nil},
		{"add_host", c.AddHost != nil},
		{"update_host", c.UpdateHost != nil},
		{"set_host_state", c.SetHostState != nil},
		{"remove_host", c.RemoveHost != nil},
		{"create_token", c.CreateToken != nil},
		{"publish", c.Publish != nil},
		{"adopt", c.Adopt != nil},
		{"remove_file", c.RemoveFile != nil},
		{"distribute", c.Distribute != nil},
		{"unpin", c.Unpin != nil},
		{"report", c.Report != nil},
		{"report_domains", c.ReportDomains != nil},
		{"raise_version", c.RaiseVersion != nil},
		{"set_authority", c.SetAuthority != nil},
	} {
		if !k.set {
			continue
		}
		if kind != "" {
			return ""
		}
		kind = k.name
	}
	return kind
}

// EncodeCommand returns a valid command as it stands in the log, at most MaxCommand bytes.
func EncodeCommand(c Command) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.V = c.Needs()
	p, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", c.Kind(), err)
	}
	if len(p) > MaxCommand {
		return nil, fmt.Errorf("encode %s: %d bytes, at most %d: %w", c.Kind(), len(p), MaxCommand, ErrBadCommand)
	}
	return p, nil
}

// DecodeCommand reads what EncodeCommand wrote. ErrNewer if the command needs a cluster version that this program
// cannot: a host that understands half of a command would hold another catalogue than the rest. A field that it does
// not know and that needs no newer version is skipped.
func DecodeCommand(p []byte) (Command, error) {
	if len(p) > MaxCommand {
		return Command{}, fmt.Errorf("decode command: %d bytes, at most %d: %w", len(p), MaxCommand, ErrBadCommand)
	}
	d := json.NewDecoder(bytes.NewReader(p))
	var c Command
	if err := d.Decode(&c); err != nil {
		return Command{}, fmt.Errorf("decode command %.80q: %v: %w", p, err, ErrBadCommand)
	}
	if _, err := d.Token(); err != io.EOF {
		return Command{}, fmt.Errorf("decode command %.80q: trailing bytes: %w", p, ErrBadCommand)
	}
	if err := canRead(c.V); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	c.V = 0
	if c.Kind() == "" {
		return Command{}, fmt.Errorf("decode command %.80q: not exactly one: %w", p, ErrBadCommand)
	}
	return c, nil
}

// Split cuts a report into ones that respect MaxHoldings and MaxCommand.
func (c Report) Split() []Report {
	// One digest is 67 bytes of text; with keys and quotes a holding is its shards and 100 more.
	const holdingOverhead, budget = 100, MaxCommand / 2
	var out []Report
	cur, size := Report{Host: c.Host}, 0
	flush := func() { out, cur, size = append(out, cur), Report{Host: c.Host}, 0 }
	for _, h := range c.Holdings {
		n := holdingOverhead + len(h.Shards.String())
		if len(cur.Holdings) == MaxHoldings || (size > 0 && size+n > budget) {
			flush()
		}
		cur.Holdings, size = append(cur.Holdings, h), size+n
	}
	for _, id := range c.Dropped {
		if len(cur.Dropped) == MaxHoldings || size+holdingOverhead > budget {
			flush()
		}
		cur.Dropped, size = append(cur.Dropped, id), size+holdingOverhead
	}
	if size > 0 || len(out) == 0 {
		flush()
	}
	return out
}
