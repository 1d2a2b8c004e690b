// Package placement is the cluster's catalogue as a pure state machine: commands in, state out. It knows which
// hosts are members, which files exist in which versions, which host keeps which shard of them (their homes), which
// host said that it holds what, and on which host each domain is.
//
// It promises that the same commands in the same order give the same state on every host, whatever the platform:
// there is no I/O, no clock, no randomness and no goroutine here, and no floating point. A command that is refused
// leaves the state untouched. Every command may be sent twice: with a Ticket the second time changes nothing, whatever
// came in between; without one it changes nothing at once (each says why).
//
// A State is not safe for concurrent use by itself: its owner (package raft) lets many read or one Apply. What its
// methods return is the caller's to keep.
package placement

import (
	"github.com/virtswarm/virtswarm/internal/content"
)

// HostID names a host: 32 lower-case hex digits, the head of the SHA-256 of its public key.
type HostID string

// Limits of the catalogue. Each is far above what a large cluster needs and exists so that no sequence of commands
// can make the replicated state grow without bound.
const (
	MaxHosts      = 4096    // a home is stored as 16 bits; rendezvous costs time in proportion
	MaxNames      = 1 << 20 // file names
	MaxVersions   = 1024    // versions of one file name
	MaxGone       = 4096    // removed hosts that are remembered, so that they can be told
	MaxTokens     = 4096    // join tokens not yet expired
	MaxName       = 512     // bytes of a file name
	MaxHostName   = 253     // bytes of a host name, as in DNS
	MaxAddr       = 300     // bytes of host:port
	MaxLabels     = 64      // labels of one host
	MaxLabel      = 256     // bytes of a label's key or value
	MaxGuests     = 256     // bytes of a guest pattern
	MaxWeight     = 1 << 20 // so that a weight times a cost stays inside 64 bits
	MaxReplicas   = MaxHosts
	MaxHoldings   = 4096    // contents in one Report or Dropped list
	MaxCommand    = 1 << 20 // bytes of an encoded command; Report.Split keeps below it
	MaxRate       = 1 << 50 // bytes/s, so that sums of rates stay inside 64 bits
	MaxQuota      = 1 << 60 // bytes
	DefaultWeight = 100
	DefaultHigh   = 90 // percent
	DefaultLow    = 80
	MaxShards     = content.MaxChunks / (content.ShardSize / content.MaxChunkSize)
	MaxDomains    = 1 << 18 // domains in the cluster
	MaxDisks      = 64      // of one domain
	MaxChain      = 64      // images in the chain of one disk
	MaxNeeds      = 256     // files that one domain needs
	MaxTags       = 64      // of one domain, or targets of one content
	MaxShm        = 1 << 30 // bytes of the shared memory of a guest link
	MaxTag        = 64      // bytes of a tag
	MaxPath       = 4096    // bytes of a path on a host
	MaxDomainName = 255     // bytes
	MaxReported   = 1024    // domains in one ReportDomains, and as many gone
	maxClusterID  = 64      // bytes of the cluster's id
	maxTokenID    = 64      // hex digits of a token's id
)

// HostState says whether a host counts.
type HostState string

const (
	// Alive: a home for shards, and its copies count.
	Alive HostState = "alive"
	// Down: not heard of for a moment. Its copies do not count, but nothing moves yet: it stays a home of the shards
	// that it holds, and is no home of others (so what is published meanwhile has all its homes among the alive).
	Down HostState = "down"
	// Lost: down for longer than the grace. No home of anything: its shards are rebuilt elsewhere. What it held is
	// remembered for when it comes back.
	Lost HostState = "lost"
	// Leaving: up and still serving, but no home: its shards move to others. Only an explicit SetHostState ends it.
	Leaving HostState = "leaving"
)

// Known reports whether it is one of the states above.
func (s HostState) Known() bool { return s == Alive || s == Down || s == Lost || s == Leaving }

// Serves reports whether a host in this state is there to be asked for bytes.
func (s HostState) Serves() bool { return s == Alive || s == Leaving }

// Host is one member of the cluster.
type Host struct {
	ID     HostID            `json:"id"`
	Name   string            `json:"name"`             // unique, for people
	Addr   string            `json:"addr"`             // host:port of its one TLS port
	Weight uint32            `json:"weight"`           // share of the shards, 1..MaxWeight; DefaultWeight if not said
	Labels map[string]string `json:"labels,omitempty"` // rack, zone, ...
	Limits Limits            `json:"limits,omitzero"`  // what the host is to keep to
	State  HostState         `json:"state"`
	Since  uint64            `json:"since"`   // index of the command that put it into State
	At     int64             `json:"at"`      // unix seconds of the same, by the leader's clock
	Joined uint64            `json:"joined"`  // index of its AddHost
	JoinAt int64             `json:"join_at"` // unix seconds of the same
	// DomainSeq is the number of its last ReportDomains.
	DomainSeq uint64 `json:"domain_seq,omitempty"`
	// Life is the number of the last start of its daemon that it told of; it grows with every start. 0: none was told.
	Life uint64 `json:"life,omitempty"`
	// Version is the highest cluster version that its program can, 0 if it tells none; Program is what that calls itself.
	Version int    `json:"version,omitempty"`
	Program string `json:"program,omitempty"`
	// Authority is the id of the certificate authority that has signed the host's certificate; empty if it has told none.
	Authority string `json:"authority,omitempty" since:"4"`
}

// Limits are what a host is told to keep to, while it runs. The zero value means no limit, or the default.
type Limits struct {
	Up    int64 `json:"up,omitempty"`    // bytes/s that it sends to other hosts; 0 = no limit
	Down  int64 `json:"down,omitempty"`  // bytes/s that it fetches from them; 0 = no limit
	Quota int64 `json:"quota,omitempty"` // bytes that its store may take; 0 = what the file system has
	High  int   `json:"high,omitempty"`  // percent of the quota at which eviction begins; 0 = DefaultHigh
	Low   int   `json:"low,omitempty"`   // percent of the quota at which it ends, below High; 0 = DefaultLow
}

// Watermarks returns High and Low with their defaults.
func (l Limits) Watermarks() (high, low int) {
	high, low = l.High, l.Low
	if high == 0 {
		high = DefaultHigh
	}
	if low == 0 {
		low = min(DefaultLow, high-1)
	}
	return high, low
}

// Version is one published version of a file.
type Version struct {
	ID        content.Digest `json:"id"`
	Size      int64          `json:"size"`     // bytes
	Replicas  int            `json:"replicas"` // copies wanted; 0 = every host
	Guests    string         `json:"guests"`   // who among the guests may read it
	Publisher HostID         `json:"publisher"`
	Index     uint64         `json:"index"` // of the Publish
	At        int64          `json:"at"`    // unix seconds, the leader's clock; below cluster version 4 the publisher's
}

// File is a name with its versions, oldest first, never empty.
type File struct {
	Name     string
	Versions []Version
}

// Newest returns the version that the bare name means.
func (f File) Newest() Version { return f.Versions[len(f.Versions)-1] }

// Content is what the catalogue knows of one content, whichever names refer to it.
type Content struct {
	ID        content.Digest
	Size      int64 // bytes
	DataBytes int64 // bytes that are not holes
	ChunkSize int   // bytes
	Shards    int   // at least 1: an empty file counts as one (empty) shard, so that somebody keeps its manifest
	Replicas  int   // copies wanted: the most that any version asks for; 0 = every host
	Targets   Targets
	Follows   []HostID // the hosts that Targets.Tags means now, sorted
	Names     []string // sorted names that have a version with this content
	Changed   uint64   // index of the last command that touched it
}

// Targets are the hosts that must hold all of a content on top of its homes.
type Targets struct {
	All   bool     `json:"all,omitempty"`   // every host, those that join later too
	Hosts []HostID `json:"hosts,omitempty"` // sorted; empty if All
	Tags  []string `json:"tags,omitempty"`  // sorted: the hosts that run domains of any of these
}

// IsZero reports whether there are none.
func (t Targets) IsZero() bool { return !t.All && len(t.Hosts) == 0 && len(t.Tags) == 0 }

// Holder is a host that said it holds shards of a content, durably.
type Holder struct {
	Host   HostID
	Shards ShardSet
}

// Token is a join token as the catalogue knows it. The secret itself is never stored.
type Token struct {
	ID      string `json:"id"`      // hex
	Hash    string `json:"hash"`    // hex digest of the secret
	Expires int64  `json:"expires"` // unix seconds
	UsedBy  HostID `json:"used_by,omitempty"`
	By      HostID `json:"by,omitempty"` // the member that made it; empty if it is not known
}

// Result is what a command did.
type Result struct {
	Index   uint64           `json:"index"`             // of the command in the log; the state has it from there on
	Changed bool             `json:"changed"`           // false if the catalogue was already so
	Unknown []content.Digest `json:"unknown,omitempty"` // Report: contents that the catalogue does not (any more) know; the host may drop them
}
