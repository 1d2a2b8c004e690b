package placement

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

// fataler is *testing.T or *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func hostID(n int) HostID { return HostID(fmt.Sprintf("%032x", n)) }

func digest(n int) content.Digest { return content.Sum(fmt.Appendf(nil, "content %d", n)) }

func tokenID(n int) string { return fmt.Sprintf("%08x", n) }

func hostNumbered(n int) Host {
	return Host{ID: hostID(n), Name: fmt.Sprintf("host%d", n), Addr: fmt.Sprintf("10.0.0.%d:7946", n%250+1)}
}

// world is a catalogue with its next index.
type world struct {
	*State
	next uint64
}

func (w *world) do(t fataler, c Command) Result {
	t.Helper()
	w.next++
	r, err := w.Apply(w.next, c)
	if err != nil {
		t.Fatalf("%s: %v", c.Kind(), err)
	}
	return r
}

// refuse applies a command that must fail, and checks that it changed nothing.
func (w *world) refuse(t *testing.T, c Command, want error) {
	t.Helper()
	before := w.image(t)
	w.next++
	_, err := w.Apply(w.next, c)
	if !isErr(err, want) {
		t.Fatalf("%s: %v, want %v", c.Kind(), err, want)
	}
	w.applied = w.next - 1 // the one thing that may differ
	after := w.image(t)
	w.applied = w.next
	if !bytes.Equal(before, after) {
		t.Fatalf("a refused %s changed the catalogue", c.Kind())
	}
}

// again applies a command a second time: it must change nothing.
func (w *world) again(t *testing.T, c Command) {
	t.Helper()
	before := w.image(t)
	r := w.do(t, c)
	w.applied = w.next - 1
	after := w.image(t)
	w.applied = w.next
	if r.Changed || !bytes.Equal(before, after) {
		t.Fatalf("a repeated %s changed the catalogue (says changed=%v)", c.Kind(), r.Changed)
	}
}

func (w *world) image(t fataler) []byte {
	t.Helper()
	return image(t, w.State)
}

// image is the catalogue as lines.
func image(t fataler, s *State) []byte {
	t.Helper()
	f := s.Freeze()
	f.head.Applied = 0
	return linesOf(t, f)
}

// facts is the catalogue as lines, but for the tickets that were used.
func facts(t fataler, s *State) []byte {
	t.Helper()
	f := s.Freeze()
	f.head.Applied, f.tickets = 0, nil
	return linesOf(t, f)
}

// lines is a snapshot before compression.
func lines(t fataler, s *State) []byte {
	t.Helper()
	return linesOf(t, s.Freeze())
}

func linesOf(t fataler, f *Frozen) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := f.sorted().writeLines(&b); err != nil {
		t.Fatalf("write: %v", err)
	}
	return b.Bytes()
}

// newWorld makes a cluster of n hosts, weights as given or default.
func newWorld(t fataler, n int, weights ...uint32) *world {
	t.Helper()
	w := &world{State: New()}
	for i := 1; i <= n; i++ {
		h := hostNumbered(i)
		if i <= len(weights) {
			h.Weight = weights[i-1]
		}
		if i == 1 {
			w.do(t, Command{InitCluster: &InitCluster{ID: "c1", Host: h, Now: 100}})
			continue
		}
		w.do(t, Command{CreateToken: &CreateToken{ID: tokenID(i), Hash: fmt.Sprintf("%064x", i), Expires: 1000, Now: 100}})
		w.do(t, Command{AddHost: &AddHost{Host: h, TokenID: tokenID(i), Now: 100}})
	}
	return w
}

// publishing is a Publish of content n with so many shards.
func publishing(name string, n, shards, replicas, publisher int) Command {
	size := int64(shards) * content.ShardSize
	return Command{Publish: &Publish{
		Name: name, ID: digest(n), Size: size, DataBytes: size, ChunkSize: content.DefaultChunkSize,
		Shards: shards, Replicas: replicas, Publisher: hostID(publisher), At: 100,
	}}
}

// seal adds the end that lines need.
func seal(lines []byte) []byte {
	end := fmt.Sprintf(`{"end":{"records":%d,"sha256":"%x"}}`+"\n", bytes.Count(lines, []byte("\n")), sha256.Sum256(lines))
	return append(bytes.Clone(lines), end...)
}
