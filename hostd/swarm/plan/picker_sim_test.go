package plan

import (
	"container/heap"
	"testing"
	"time"
)

// simNet is a swarm in virtual time, just enough of one to show what the picker's rules are worth: every
// node sends one chunk at a time at its uplink's rate, to its requesters in turn (as TCP flows share a link), and receives
// at its downlink's. A request travels in simLatency, the news of a chunk in simNews.
type simNet struct {
	now    float64 // seconds
	events simEvents
	seq    int
	nodes  []*simNode // the first is the seed
	chunks int
	len    float64
}

const (
	simLatency = 0.001
	simNews    = 0.010
	simRate    = 12.5e6 // bytes a second: 100 Mbit/s
	simChunk   = 256 << 10
)

type simNode struct {
	id       int
	rate     float64 // bytes a second, each way
	dead     bool
	pick     *Picker
	sources  map[int]*Source // by node
	pace     map[int]*Pace
	asked    map[[2]int]float64 // when, by node and chunk
	have     mask
	count    int
	done     float64
	waiting  map[int][]int // requests to this node, by requester
	order    []int
	turn     int
	sending  bool
	downFree float64
	sent     int
}

type simEvent struct {
	at  float64
	seq int
	do  func()
}
type simEvents []simEvent

func (e simEvents) Len() int { return len(e) }
func (e simEvents) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e simEvents) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *simEvents) Push(x any)   { *e = append(*e, x.(simEvent)) }
func (e *simEvents) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func (n *simNet) after(d float64, do func()) {
	n.seq++
	heap.Push(&n.events, simEvent{n.now + d, n.seq, do})
}

func simTime(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

func (n *simNet) time() time.Time { return time.Unix(0, 0).Add(simTime(n.now)) }

// newSimNet makes a seed and fetchers of the given rates; everybody knows everybody.
func newSimNet(chunks int, seed float64, fetchers ...float64) *simNet {
	n := &simNet{chunks: chunks, len: simChunk}
	for i, rate := range append([]float64{seed}, fetchers...) {
		n.nodes = append(n.nodes, &simNode{
			id: i, rate: rate, have: newMask(chunks), waiting: map[int][]int{},
			sources: map[int]*Source{}, pace: map[int]*Pace{}, asked: map[[2]int]float64{},
			pick: NewPicker(Mix(uint64(i)), int64(chunks)*simChunk, simChunk),
		})
	}
	for c := range chunks {
		n.nodes[0].have.set(c)
	}
	for _, a := range n.nodes[1:] {
		for c := range chunks {
			a.pick.Want(c, Distribute)
		}
		for _, b := range n.nodes {
			if a != b {
				a.sources[b.id] = a.pick.Add(Mix(uint64(b.id)), b.have.has)
				a.pace[b.id] = &Pace{}
				if b.id > 0 {
					a.pick.Fellow(a.sources[b.id])
				}
			}
		}
	}
	return n
}

// fill lets a node ask for what it may.
func (n *simNet) fill(a *simNode) {
	for !a.dead {
		r, ok := a.pick.Next()
		if !ok {
			return
		}
		for id, s := range a.sources {
			if s != r.Source {
				continue
			}
			a.pace[id].Owe(n.time())
			a.asked[[2]int{id, r.Chunk}] = n.now
			b := n.nodes[id]
			n.after(simLatency, func() { n.request(a, b, r.Chunk) })
		}
	}
}

func (n *simNet) request(a, b *simNode, c int) {
	if _, ok := b.waiting[a.id]; !ok {
		b.order = append(b.order, a.id)
	}
	b.waiting[a.id] = append(b.waiting[a.id], c)
	n.send(b)
}

// send begins b's next chunk.
func (n *simNet) send(b *simNode) {
	for i := range b.order {
		k := (b.turn + i) % len(b.order)
		a := n.nodes[b.order[k]]
		q := b.waiting[a.id]
		if len(q) == 0 || b.sending || b.dead {
			continue
		}
		b.turn, b.waiting[a.id], b.sending = k+1, q[1:], true
		n.after(n.len/b.rate, func() {
			b.sending = false
			b.sent++
			a.downFree = max(n.now, max(n.now-n.len/a.rate, a.downFree)+n.len/a.rate)
			n.after(a.downFree-n.now+simLatency, func() { n.receive(a, b, q[0]) })
			n.send(b)
		})
	}
}

func (n *simNet) receive(a, b *simNode, c int) {
	if a.dead || b.dead {
		return
	}
	s, p := a.sources[b.id], a.pace[b.id]
	p.Got(n.time(), simChunk)
	rate := p.Rate(n.time(), simChunk)
	p.Took(simTime(n.now-a.asked[[2]int{b.id, c}]), simChunk, s.Owes(), rate)
	if s.Owes() <= simChunk {
		p.Idle()
	}
	a.pick.SetPace(s, rate, p.Allowed(simChunk))
	if !a.have.has(c) {
		a.have.set(c)
		a.count++
		a.done = n.now
		a.pick.Done(c)
		for _, o := range n.nodes[1:] {
			n.after(simNews, func() { n.news(o, a, c) })
		}
	}
	n.fill(a)
}

func (n *simNet) news(o, a *simNode, c int) {
	if s := o.sources[a.id]; s != nil {
		o.pick.Have(s, c)
		n.fill(o)
	}
}

func (n *simNet) kill(i int) {
	n.nodes[i].dead = true
	for _, o := range n.nodes {
		if s := o.sources[i]; s != nil && !o.dead {
			o.pick.Remove(s)
			delete(o.sources, i)
			n.fill(o)
		}
	}
}

// run returns when the last living fetcher ended and what the seed sent, as multiples of one plain copy.
func (n *simNet) run(t *testing.T) (last, seed float64) {
	t.Helper()
	for _, a := range n.nodes[1:] {
		n.fill(a)
	}
	for len(n.events) > 0 {
		e := heap.Pop(&n.events).(simEvent)
		n.now = e.at
		e.do()
	}
	for _, a := range n.nodes[1:] {
		if a.dead {
			continue
		}
		if a.count != n.chunks {
			t.Fatalf("node %d ended with %d of %d chunks", a.id, a.count, n.chunks)
		}
		last = max(last, a.done)
	}
	return last / (float64(n.chunks) * n.len / simRate), float64(n.nodes[0].sent) / float64(n.chunks)
}

func equal(n int, rate float64) []float64 {
	rates := make([]float64, n)
	for i := range rates {
		rates[i] = rate
	}
	return rates
}

// TestSimulatedSwarm bounds what the rules cost. The limits are a little above what they reach today, so that a change that
// makes them worse is seen.
func TestSimulatedSwarm(t *testing.T) {
	for _, tc := range []struct {
		name         string
		net          *simNet
		fault        func(*simNet)
		time, copies float64 // limits
	}{
		{name: "1 fetcher", net: newSimNet(512, simRate, simRate), time: 1.01, copies: 1},
		{name: "2 fetchers", net: newSimNet(512, simRate, equal(2, simRate)...), time: 1.03, copies: 1.03},
		{name: "8 fetchers, 16 MiB", net: newSimNet(64, simRate, equal(8, simRate)...), time: 1.35, copies: 1.35},
		{name: "8 fetchers, 128 MiB", net: newSimNet(512, simRate, equal(8, simRate)...), time: 1.08, copies: 1.06},
		{name: "8 fetchers, 512 MiB", net: newSimNet(2048, simRate, equal(8, simRate)...), time: 1.03, copies: 1.03},
		{name: "24 fetchers, 128 MiB", net: newSimNet(512, simRate, equal(24, simRate)...), time: 1.2, copies: 1.2},
		{name: "slow seed", net: newSimNet(512, simRate/4, equal(8, simRate)...), time: 4.3, copies: 1.1},
		{name: "fast seed", net: newSimNet(512, simRate*4, equal(8, simRate)...), time: 1.03, copies: 1.06},
		{name: "2 of 8 die", net: newSimNet(512, simRate, equal(8, simRate)...), time: 1.08, copies: 1.06,
			fault: func(n *simNet) { n.after(6, func() { n.kill(3); n.kill(7) }) }},
		{name: "1 of 8 never begins", net: newSimNet(512, simRate, equal(8, simRate)...), time: 1.08, copies: 1.06,
			fault: func(n *simNet) { n.nodes[8].dead = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.fault != nil {
				tc.fault(tc.net)
			}
			last, seed := tc.net.run(t)
			t.Logf("last after %.3f plain copies, seed sent %.3f files", last, seed)
			if last > tc.time || seed > tc.copies {
				t.Errorf("last after %.3f plain copies, seed sent %.3f files; want at most %v and %v", last, seed, tc.time, tc.copies)
			}
		})
	}
}

// TestSlowFetcherHoldsNobodyUp has one of eight at a tenth of the rate.
func TestSlowFetcherHoldsNobodyUp(t *testing.T) {
	n := newSimNet(512, simRate, append(equal(7, simRate), simRate/10)...)
	n.run(t)
	plain := 512 * simChunk / simRate
	for _, a := range n.nodes[1:8] {
		if a.done > 1.1*plain {
			t.Errorf("node %d ended after %.3f plain copies", a.id, a.done/plain)
		}
	}
}
