package swarm

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/hostd/swarm/sim"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
	"github.com/virtswarm/virtswarm/placement"
)

// TestDriversAgree: what happened to a simulated fetcher happens to a daemon's swarm, at the same moments. Both must do
// the same, at the same moments.
func TestDriversAgree(t *testing.T) {
	for _, spec := range sim.Scenarios() {
		for _, name := range []string{"8 fetchers, 16 MiB", "8 fetchers, 2 seeds", "8 fetchers, 2 killed", "2 racks of 4"} {
			if spec.Name != name {
				continue
			}
			t.Run(name, func(t *testing.T) {
				script := spec.Record(3)
				got := replay(t, spec, script)
				if at, is, want := differ(got, script.Actions); at >= 0 {
					t.Errorf("action %d of %d is %q, in the simulation %q", at, len(script.Actions), is, want)
				}
				if len(script.Actions) < 100 {
					t.Errorf("only %d actions", len(script.Actions))
				}
			})
		}
	}
}

// TestDriversDisagree: the comparison sees it if something else happened to one of them.
func TestDriversDisagree(t *testing.T) {
	spec := sim.Scenarios()[0]
	for _, s := range sim.Scenarios() {
		if s.Name == "8 fetchers, 16 MiB" {
			spec = s
		}
	}
	for what, spoil := range map[string]func(*sim.Step){
		"an announcement names another chunk": func(s *sim.Step) { s.Chunks = []int{(s.Chunks[0] + 1) % 64} },
		"an announcement comes a little late": func(s *sim.Step) { s.At += 3 * time.Millisecond },
	} {
		script := spec.Record(3)
		told := 0
		for i := range script.Steps {
			if s := &script.Steps[i]; s.What == sim.Told && len(s.Chunks) == 1 {
				if told++; told > 5 && told < 12 {
					spoil(s)
				}
			}
		}
		if at, _, _ := differ(replay(t, spec, script), script.Actions); at < 0 {
			t.Errorf("%s, and nobody sees it", what)
		}
	}
}

// differ returns the first place where two lists differ, and what stands there; -1 if they are the same.
func differ(a, b []string) (at int, is, want string) {
	for i := range max(len(a), len(b)) {
		is, want = "nothing", "nothing"
		if i < len(a) {
			is = a[i]
		}
		if i < len(b) {
			want = b[i]
		}
		if is != want {
			return i, is, want
		}
	}
	return -1, "", ""
}

// replay lets a script happen to a swarm and returns what its job did.
func replay(t *testing.T, spec *sim.Spec, script sim.Script) (did []string) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{script: script, spec: spec, file: newStageFile(t, spec), actors: map[wire.PeerID]*actor{}}
		swarm, err := New(Config{Self: hostID(script.Self), Store: s, Directory: s, Dialer: s})
		if err != nil {
			t.Fatal(err)
		}
		s.swarm = swarm
		began := time.Now()
		swarm.watch = func(a plan.Action) { did = append(did, sim.Line(time.Since(began), a)) }
		swarm.speak = s.speak
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			swarm.Fetch(ctx, s.file, content.Bits{}, Distribute, nil)
		}()
		synctest.Wait()
		for _, step := range script.Steps {
			time.Sleep(step.At - time.Since(began))
			s.perform(step)
			synctest.Wait()
		}
		swarm.watch = nil
		cancel()
		<-ended
		if err := swarm.Close(); err != nil {
			t.Error(err)
		}
	})
	return did
}

func hostID(h plan.Host) placement.HostID { return placement.HostID(wire.PeerID(h).String()) }

// stage is the world of a replayed swarm: whatever it asks of others is answered when the script says so.
type stage struct {
	script sim.Script
	spec   *sim.Spec
	file   *stageFile
	swarm  *Swarm

	mu     sync.Mutex
	actors map[wire.PeerID]*actor
}

func (s *stage) Get(content.Digest) (File, bool) { return s.file, true }

func (s *stage) Holders(content.Digest) (all []placement.HostID) {
	for _, h := range s.script.Seeds {
		all = append(all, hostID(h))
	}
	return all
}

func (s *stage) Place(h placement.HostID) Place {
	id, _ := wire.ParsePeerID(string(h))
	return s.spec.Place(plan.Host(id))
}

func (s *stage) Dial(context.Context, placement.HostID) (net.Conn, error) {
	a, _ := net.Pipe()
	return a, nil
}

// speak makes an actor of the peer of a link.
func (s *stage) speak(_ io.ReadWriteCloser, l *link) session {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &actor{link: l, over: make(chan struct{}), opened: make(chan sim.Step, 1)}
	s.actors[l.peer] = a
	return a
}

func (s *stage) actor(id wire.PeerID) *actor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.actors[id]
}

// perform lets a step of the script happen.
func (s *stage) perform(step sim.Step) {
	id := wire.PeerID(step.Peer)
	a := s.actor(id)
	if a == nil && step.What == sim.Opened { // over a session that the peer dialed
		conn, _ := net.Pipe()
		go s.swarm.Serve(context.Background(), conn, hostID(step.Peer))
		synctest.Wait()
		a = s.actor(id)
	}
	switch step.What {
	case sim.Came: // over a session that it dialed, of which nothing else is to be seen
		s.swarm.came(s.file.ID(), id)
	case sim.Met:
		s.swarm.running(s.file.ID()).post(met{ids(step.Hosts)})
	case sim.Opened:
		a.opened <- step
	case sim.Told:
		if a != nil {
			a.link.Have(nil, s.file.ID(), step.Chunks)
		}
	case sim.Granted:
		if w := a.draw(step.Lo, step.Hi); w != nil {
			w.granted <- step.Chunk
		}
	case sim.Spent:
		if w := a.draw(step.Lo, step.Hi); w != nil {
			w.ended <- wire.ErrSpent
		}
	case sim.Arrived:
		if w := a.take(func(w *wanted) bool { return w.chunk == step.Chunk }); w != nil {
			w.ended <- nil
		}
	case sim.Ended:
		close(a.over)
	}
}

// actor is a peer that does what the script says.
type actor struct {
	link   *link
	over   chan struct{}
	opened chan sim.Step

	mu    sync.Mutex
	wants []*wanted // the oldest first
}

// wanted is a chunk that the swarm waits for.
type wanted struct {
	chunk, lo, hi int // chunk is -1 of a draw
	granted       chan int
	ended         chan error
}

func (a *actor) want(w *wanted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.granted, w.ended = make(chan int, 1), make(chan error, 1)
	a.wants = append(a.wants, w)
}

// take takes the oldest that is meant off the list; nil if there is none.
func (a *actor) take(is func(*wanted) bool) *wanted {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, w := range a.wants {
		if is(w) {
			a.wants = append(a.wants[:i:i], a.wants[i+1:]...)
			return w
		}
	}
	return nil
}

func (a *actor) draw(lo, hi int) *wanted {
	return a.take(func(w *wanted) bool { return w.chunk < 0 && w.lo == lo && w.hi == hi })
}

// await waits for the end of what the swarm wants. That the session has ended the job hears first, and gives it up:
// which of the two it hears first is chance in a daemon.
func (a *actor) await(ctx context.Context, w *wanted) error {
	defer a.take(func(o *wanted) bool { return o == w })
	select {
	case err := <-w.ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *actor) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.over:
		return wire.ErrEnded
	}
}

func (a *actor) Err() error                                    { return wire.ErrEnded }
func (a *actor) Stats() wire.Stats                             { return wire.Stats{} }
func (a *actor) Goodbye(wire.Code, string)                     {}
func (a *actor) CloseFile(content.Digest)                      {}
func (a *actor) SendHave(content.Digest, ...int) error         { return nil }
func (a *actor) SendHaveLater(content.Digest, ...int) error    { return nil }
func (a *actor) SendPeers(content.Digest, []wire.PeerID) error { return nil }
func (a *actor) Ping(context.Context) (time.Duration, error)   { return 0, nil }
func (a *actor) Manifest(context.Context, content.Digest) ([]byte, error) {
	return nil, wire.ErrNotFound
}

func (a *actor) Open(ctx context.Context, _ content.Digest, _ int, _ bool) (content.Bits, []wire.PeerID, error) {
	select {
	case step := <-a.opened:
		return step.Have.Clone(), ids(step.Hosts), nil
	case <-ctx.Done():
		return content.Bits{}, nil, ctx.Err()
	}
}

func (a *actor) Chunk(ctx context.Context, _ content.Digest, index, _ int, _ wire.Priority, _ []byte) error {
	w := &wanted{chunk: index}
	a.want(w)
	return a.await(ctx, w)
}

func (a *actor) Draw(ctx context.Context, _ content.Digest, lo, hi int, _ wire.Priority, granted func(int) ([]byte, bool)) (int, error) {
	w := &wanted{chunk: -1, lo: lo, hi: hi}
	a.want(w)
	select {
	case c := <-w.granted:
		if _, ok := granted(c); !ok {
			return 0, errors.New("the job has ended")
		}
		w = &wanted{chunk: c}
		a.want(w)
		return c, a.await(ctx, w)
	case err := <-w.ended:
		return 0, err
	case <-ctx.Done():
		a.take(func(o *wanted) bool { return o == w })
		return 0, ctx.Err()
	}
}

// stageFile is a file of which nothing is here and whatever comes is right.
type stageFile struct {
	m *content.Manifest

	mu   sync.Mutex
	have content.Bits
}

func newStageFile(t *testing.T, spec *sim.Spec) *stageFile {
	t.Helper()
	chunks := make([]content.Digest, (spec.Size+int64(spec.Chunk)-1)/int64(spec.Chunk))
	for i := range chunks {
		chunks[i] = content.Sum([]byte{byte(i), byte(i >> 8)})
	}
	m, err := content.NewManifest(spec.Size, spec.Chunk, chunks)
	if err != nil {
		t.Fatal(err)
	}
	return &stageFile{m: m, have: content.NewBits(len(chunks))}
}

func (f *stageFile) ID() content.Digest          { return f.m.ID() }
func (f *stageFile) Manifest() *content.Manifest { return f.m }

func (f *stageFile) Have() content.Bits {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.Clone()
}

func (f *stageFile) ReadChunk(int, []byte) ([]byte, error) { return nil, errors.New("nobody reads") }

func (f *stageFile) WriteChunk(i int, _ []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have.Set(i)
	return nil
}
