package sim

import (
	"fmt"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
)

// Script is all that happened to one fetcher, and what it did: what another driver of the same plan must do as well,
// when the same happens to it.
type Script struct {
	Self    plan.Host
	Seeds   []plan.Host // what the directory says
	Steps   []Step
	Actions []string
}

// Step is something that happened.
type Step struct {
	At     time.Duration // since the host began
	What   What
	Peer   plan.Host
	Have   content.Bits // of Opened
	Hosts  []plan.Host  // of Opened and Met
	Chunks []int        // of Told
	Chunk  int          // of Granted and Arrived
	Lo, Hi int          // of Granted and Spent: those of the oldest such draw at the peer
}

// What says what a Step is; each is an event of plan.Job.
type What uint8

// The steps of a Script.
const (
	Opened What = iota + 1
	Told
	Met
	Came
	Granted
	Spent
	Arrived
	Ended // the session
)

// recorder writes the script of a host.
type recorder struct {
	Script
	host *host
}

// Record lets a scenario happen and returns the script of one fetcher, by its number among them. What it did after the
// last step is left out.
func (s *Spec) Record(member int) Script {
	n := s.build()
	h := n.hosts[len(s.seeds)+member]
	h.record = &recorder{Script: Script{Self: h.self, Seeds: n.seeds}, host: h}
	n.run()
	return h.record.Script
}

// step notes what happened; it may be called of a host that is not recorded.
func (r *recorder) step(s Step) {
	if r != nil {
		s.At = r.at()
		r.Steps = append(r.Steps, s)
	}
}

// did notes what the host did.
func (r *recorder) did(a plan.Action) {
	if r != nil {
		r.Actions = append(r.Actions, Line(r.at(), a))
	}
}

func (r *recorder) at() time.Duration { return time.Duration(r.host.net.now - r.host.began) }

// Line tells an action and its time, as a Script has it.
func Line(at time.Duration, a plan.Action) string { return fmt.Sprintf("%v %v", at, a) }
