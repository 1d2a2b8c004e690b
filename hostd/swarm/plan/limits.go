package plan

import "time"

// Limits of the conversation. Limits in bytes bound memory, limits in time bound how long a host waits for others,
// limits in numbers bound both.
const (
	// MaxSessions bounds the peers that a host talks to at a time, in either direction. A session costs some hundred
	// KiB of buffers.
	MaxSessions = 256
	// MaxPeerSessions bounds the sessions with one peer. Two are normal when both dial at once.
	MaxPeerSessions = 4
	// MaxLobby bounds the sessions above MaxSessions, in which peers are told that there is no room, and whom to ask
	// instead. A thousand hosts may come to one seed at once; who is not even let into the lobby hears of nobody.
	MaxLobby = 256
	// LobbyTime is how long such a session lasts at most, and LobbyGrace how long after the peer was told.
	LobbyTime  = 2 * time.Second
	LobbyGrace = 20 * time.Millisecond
	// IdleTime is how long a session stays that nobody has a file open on.
	IdleTime = time.Minute
	// CourtesyTime is how long the host of the higher id leaves it to the other to dial when two want a session: two
	// handshakes for each pair are most of what the first moments of a swarm cost.
	CourtesyTime = 100 * time.Millisecond
	// DialTimeout bounds the way to a peer's answer that it knows the file.
	DialTimeout = 10 * time.Second
	// MaxIntroductions bounds the hosts that one peer is told of when it opens a file.
	MaxIntroductions = 64
	// ShunTime is how long nothing is taken from a peer that lied, and nothing served to it.
	ShunTime = 10 * time.Minute
)

// Limits of a fetcher; see Job.
const (
	// MaxSources bounds the sources of a Job. A chunk spreads from any of them; more bring more announcements than
	// chunks.
	MaxSources = 30
	// DialSources is how many of them a fetcher looks for itself. The others are those who found it: a host to which
	// all came and which went to nobody would be a source of many and have few.
	DialSources = 28
	// LookAround is how long a fetcher that has just begun hears of fellows before it dials any: fetchers that all know
	// only those who came first become a swarm of their own. It dials the holders that the directory lists at once.
	LookAround = 25 * time.Millisecond
	// CrowdTime is the same for a fetcher that knows CrowdSize fellows: a holder cannot let all of a large crowd in at
	// once, and the first hosts would fill their places with one another before the others come.
	CrowdTime = 400 * time.Millisecond
	CrowdSize = 2 * MaxSources
	// MaxCandidates bounds the hosts that a Job knows: as many as the catalogue has hosts.
	MaxCandidates = 1024
	// maxFails is how often a host that only other peers named is tried in vain before it is forgotten.
	maxFails = 3
	// MaxInFlight bounds the bytes requested by all jobs of a host and not yet stored. They are buffers in memory.
	MaxInFlight = 256 << 20
	// MaxPeerInFlight bounds the same for one peer. (One chunk may always be in flight.)
	MaxPeerInFlight = MaxWindow
	// DemandReserve is the part of both that is kept for chunks a reader waits for.
	DemandReserve = 4 // one in so many
	// StallTime is how long a peer may owe chunks without sending a byte before they are asked from others.
	StallTime = 4 * time.Second
	// stallBytes is what a peer must send in StallTime to count as alive: more than its announcements amount to.
	stallBytes = 32 << 10
	// AsideTime is how long a Job leaves a peer alone that stalled or failed; it doubles up to MaxAside.
	AsideTime = time.Second
	// MaxAside bounds AsideTime.
	MaxAside = 30 * time.Second
	// BusyTime is the same for a holder that did not let this host in, and up to twice that, by lot: when a thousand
	// hosts come to one at once, they should come again soon, and not together.
	BusyTime = 100 * time.Millisecond
	// PatienceTime is how long a Job looks for somebody who offers a missing chunk before it gives a claim up: time for
	// a fetcher that was just introduced to get it.
	PatienceTime = 5 * time.Second
	// LingerTime is how long a Job without claims keeps its sources, for the next reader of the same file.
	LingerTime = 10 * time.Second
	// LookTime is how often a Job asks the directory for new holders.
	LookTime = time.Second
	// TickTime is how often a Job looks at its sources' rates.
	TickTime = 200 * time.Millisecond
)

// Limits of a holder; see Server and Inquiry.
const (
	// MaxServing bounds the bytes of chunks that are on their way to peers. They are buffers in memory; only when many
	// receivers are slow does it come to more than Slots chunks.
	MaxServing = 256 << 20
	// MaxFollowers bounds the fetchers that a host serves with a file which it fetches itself. It names others to those
	// above: in a swarm in which the first have many followers and the last have few, the last are served last.
	MaxFollowers = MaxSources
	// HoldTime is how long after a draw from this rack others are held back. A fetcher that draws does so again within
	// a round trip, and waits for no more than a few chunks.
	HoldTime = 250 * time.Millisecond
	// HedgeTime is how long a holder may take to give a manifest before the next one is asked as well.
	HedgeTime = time.Second
	// MaxManifestHosts bounds the holders that are asked for a manifest.
	MaxManifestHosts = 16
)
