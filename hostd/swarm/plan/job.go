package plan

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Job is a fetcher's part in the conversation about one file, on behalf of all who want chunks of it: which hosts it
// goes to, what it asks of each, when it gives one up, what it tells others. Its methods are events; each notes what
// happened at now. Act then decides and returns the actions that the driver carries out, in their order.
//
// A Job reads no clock and waits for nobody. The driver calls Tick when Due says so.
type Job struct {
	cfg   JobConfig
	pick  *Picker
	have  content.Bits // chunks that are here, and told of or about to be
	began time.Time

	claims     []*Claim
	candidates map[Host]*candidate
	listed     []*candidate // that the directory named, in the order in which they are connected to
	named      []*candidate // that only peers named, likewise
	calling    int          // candidates that came here and are no source
	peers      []*Peer      // connected or connecting, in the order of Connect
	pace       Pace         // of everything that comes in
	full       bool         // it was said that there is no room for another source
	starved    bool         // some sources are limited for want of budget
	idle       bool         // nothing happened that may let Next find something
	news       []int        // chunks to tell of: those that no fellow in this rack had
	old        []int        // and those that one has given
	looked     time.Time    // when the directory was asked; zero before
	ticked     time.Time    // when Tick looked at the sources
	retry      time.Time    // when the next holder is to be tried again
	lastUse    time.Time    // when the last claim went
	received   int64        // bytes of chunks that have come, for whomever
	out        []Action
}

// JobConfig is what a Job works with.
type JobConfig struct {
	Self   Host
	Size   int64              // of the file, in bytes
	Chunk  int                // of its chunks, in bytes
	Have   content.Bits       // chunks that are here; the Job owns it
	Place  func(h Host) Place // where a host stands
	Budget Budgeter           // of all jobs of this host
}

// Budgeter is a Budget, behind a lock where several jobs share it.
type Budgeter interface {
	// Ask says whether n bytes may be requested of a peer now and, unless it is for a draw, reserves them. If it says
	// no, the driver calls the Job's Room when there may be room again.
	Ask(now time.Time, peer Host, n int, prio Priority, draw bool) bool
}

// NewJob makes a Job, which begins to look for sources with its first claim.
func NewJob(now time.Time, cfg JobConfig) *Job {
	return &Job{
		cfg: cfg, have: cfg.Have, began: now, ticked: now, lastUse: now,
		pick:       NewPicker(cfg.Self.Key(), cfg.Place(cfg.Self), cfg.Size, cfg.Chunk),
		candidates: map[Host]*candidate{},
	}
}

// Verb says what an Action is.
type Verb uint8

// The actions of a Job. The driver answers each of them by an event, now or later, where said.
const (
	// Look: ask the directory who holds the file; Listed answers.
	Look Verb = iota + 1
	// Connect: get a session with Peer and open the file there, to fetch it; Opened or Refused answers. Mutual says
	// that the peer wants a session with this host as well.
	Connect
	// Part: close the file at Peer, about which nothing is asked any more; Why says why.
	Part
	// Send: send Ask to its peer; Granted and Ended answer.
	Send
	// Cancel: give Ask up. Ended may still come, and then tells only whether the peer lied.
	Cancel
	// Probe: ask Peer for a sign of life; Alive answers.
	Probe
	// Shun: have nothing to do with the host of Peer, which lied.
	Shun
	// Tell: tell followers of Chunks that are here now; Soon says that they wait for them.
	Tell
	// Finish: tell the caller of Claim its Verdict.
	Finish
	// Crowd: tell the Server whether this Job has as many sources as it may, as Full says: a fetcher that came now
	// could not be one of them.
	Crowd
)

// Action is one thing that the driver of a Job should do. Which fields count depends on Do.
type Action struct {
	Do      Verb
	Mutual  bool
	Soon    bool
	Full    bool
	Why     Why
	Verdict Verdict
	Peer    *Peer
	Ask     *Ask
	Claim   *Claim
	Chunks  []int // valid until the next call of Act
}

// String tells the action, the same for every driver.
func (a Action) String() string {
	peer := func(p *Peer) string { return hex.EncodeToString(p.cand.host[:4]) }
	switch a.Do {
	case Look:
		return "look"
	case Connect:
		return fmt.Sprintf("connect to %s, mutual %v", peer(a.Peer), a.Mutual)
	case Part:
		return fmt.Sprintf("part with %s, why %d", peer(a.Peer), a.Why)
	case Probe:
		return "probe " + peer(a.Peer)
	case Shun:
		return "shun " + peer(a.Peer)
	case Tell:
		return fmt.Sprintf("tell of %v, soon %v", a.Chunks, a.Soon)
	case Crowd:
		return fmt.Sprintf("crowd, full %v", a.Full)
	case Finish:
		return fmt.Sprintf("finish, verdict %d", a.Verdict)
	}
	verb := "ask"
	if a.Do == Cancel {
		verb = "cancel"
	}
	if a.Ask.Chunk < 0 {
		return fmt.Sprintf("%s %s for any of %d to %d, priority %d", verb, peer(a.Ask.Peer), a.Ask.Lo, a.Ask.Hi,
			a.Ask.Priority)
	}
	return fmt.Sprintf("%s %s for chunk %d, priority %d", verb, peer(a.Ask.Peer), a.Ask.Chunk, a.Ask.Priority)
}

// Why says why a Job parts with a peer.
type Why uint8

const (
	Over    Why = iota // the Job ends
	Failed             // it refused, its session ended, or a request to it failed
	Stalled            // it owes something and sends nothing
	Lied               // what it sent does not match its digest
)

// Verdict is what a claim comes to.
type Verdict uint8

const (
	Complete Verdict = iota // all is here
	Dropped                 // the caller has gone
	NoHolder                // nobody offered what is missing for PatienceTime
	Faulty                  // this host could not store a chunk
	Closed                  // the Job was closed
)

// Act decides what to do now and returns it with what events have led to. The slice is valid until the next call.
func (j *Job) Act(now time.Time) []Action {
	if !j.idle {
		j.fill(now)
		j.idle = true
	}
	if full := len(j.peers) >= MaxSources; full != j.full {
		j.full = full
		j.act(Action{Do: Crowd, Full: full})
	}
	if len(j.news) > 0 {
		j.out = append(j.out, Action{Do: Tell, Chunks: j.news, Soon: true})
	}
	if len(j.old) > 0 {
		j.out = append(j.out, Action{Do: Tell, Chunks: j.old})
	}
	out := j.out
	j.out, j.news, j.old = out[len(out):], j.news[len(j.news):], j.old[len(j.old):]
	return out
}

func (j *Job) act(a Action) { j.out = append(j.out, a) }

// Due returns when Tick is to be called.
func (j *Job) Due() time.Time {
	due := j.ticked.Add(TickTime)
	if j.ticked.Before(j.retry) && j.retry.Before(due) {
		due = j.retry
	}
	if look := j.began.Add(LookAround); j.ticked.Before(look) && look.Before(due) {
		return look
	}
	return due
}

// Tick looks at what the sources do, at the directory, and for sources and claims whose time has come. The driver says
// before what each source has sent; see Vital.
func (j *Job) Tick(now time.Time) {
	j.idle = false
	j.ticked = now
	for _, p := range slices.Clone(j.peers) {
		j.measure(p, now)
		if p.stalls(now) {
			j.drop(p, Stalled, now)
		}
	}
	if len(j.claims) == 0 {
		return
	}
	j.seek(now)
	for _, c := range slices.Clone(j.claims) {
		j.checkStuck(c, now)
	}
}

// Over says whether the Job has had no claim for LingerTime: the driver closes it.
func (j *Job) Over(now time.Time) bool { return len(j.claims) == 0 && now.Sub(j.lastUse) >= LingerTime }

// Close ends all claims and parts with all peers.
func (j *Job) Close(now time.Time) {
	for len(j.claims) > 0 {
		j.finish(j.claims[0], Closed, now)
	}
	for len(j.peers) > 0 {
		p := j.peers[0]
		j.leave(p)
		j.act(Action{Do: Part, Peer: p, Why: Over})
	}
}

// Rate returns the bytes a second that come in now, for all claims.
func (j *Job) Rate(now time.Time) float64 { return j.pace.Rate(now, j.cfg.Chunk) }

// Received returns the bytes of chunks that have come, whatever became of them.
func (j *Job) Received() int64 { return j.received }

// Has says whether chunk c is here.
func (j *Job) Has(c int) bool { return j.have.Has(c) }

// Known returns how many hosts the Job knows that may have the file.
func (j *Job) Known() int { return len(j.candidates) }

// Sources counts the open sources that have everything and those that do not.
func (j *Job) Sources() (seeds, fetchers int) {
	for _, p := range j.peers {
		switch {
		case !p.open:
		case j.pick.Complete(p.src):
			seeds++
		default:
			fetchers++
		}
	}
	return seeds, fetchers
}

// len is the length of chunk c in bytes.
func (j *Job) len(c int) int { return j.pick.len(c) }
