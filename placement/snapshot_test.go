package placement

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/virtswarm/virtswarm/internal/content"
)

func freeze(t fataler, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.Freeze().WriteTo(&b); err != nil {
		t.Fatalf("write: %v", err)
	}
	return b.Bytes()
}

// drawCommand draws any command over few hosts, names and contents, so that they meet; some with a ticket that may have
// been used, by the same command or another.
func drawCommand(t *rapid.T) Command {
	c := drawPlain(t)
	if rapid.Bool().Draw(t, "ticket") {
		c.Ticket = &Ticket{Host: hostID(rapid.IntRange(1, 3).Draw(t, "asker")), Number: uint64(rapid.IntRange(1, 12).Draw(t, "number"))}
	}
	return c
}

func drawPlain(t *rapid.T) Command {
	n := func(what string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, what) }
	host := func() HostID { return hostID(n("host", 1, 5)) }
	name := func() string { return rapid.SampledFrom([]string{"a", "b", "c/d", "c/e f"}).Draw(t, "name") }
	maybe := func() content.Digest {
		if rapid.Bool().Draw(t, "newest") {
			return content.Digest{}
		}
		return digest(n("content", 1, 4))
	}
	switch n("kind", 0, 17) {
	case 0:
		i := n("new host", 1, 5)
		h := hostNumbered(i)
		h.Weight = uint32(n("weight", 0, 3))
		return Command{AddHost: &AddHost{Host: h, TokenID: tokenID(n("token", 1, 6)), Now: int64(n("now", 1, 20))}}
	case 1:
		i := n("token", 1, 6)
		return Command{CreateToken: &CreateToken{ID: tokenID(i), Hash: fmt.Sprintf("%064x", i), Expires: int64(n("expires", 1, 20)), Now: int64(n("now", 1, 20))}}
	case 2:
		u := &UpdateHost{ID: host(), Weight: uint32(n("weight", 0, 3))}
		if rapid.Bool().Draw(t, "label") {
			u.Labels = map[string]string{"rack": fmt.Sprint(n("rack", 1, 2))}
		}
		if rapid.Bool().Draw(t, "relabel") {
			u.Relabel = map[string]string{"rack": rapid.SampledFrom([]string{"", "r3"}).Draw(t, "new rack")}
		}
		if rapid.Bool().Draw(t, "limits") {
			up, high, low := int64(n("up", 0, 2)), n("high", 0, 100), n("low", 0, 100)
			u.Up, u.High, u.Low = &up, &high, &low
		}
		return Command{UpdateHost: u}
	case 3:
		states := []HostState{Alive, Down, Lost, Leaving}
		return Command{SetHostState: &SetHostState{ID: host(), From: rapid.SampledFrom(append(states, "")).Draw(t, "from"), To: rapid.SampledFrom(states).Draw(t, "to"), Now: 7}}
	case 4:
		return Command{RemoveHost: &RemoveHost{ID: host()}}
	case 5, 6, 7:
		i := n("content", 1, 4)
		c := publishing(name(), i, i, n("replicas", 0, 3), n("publisher", 1, 5))
		c.Publish.At = int64(n("at", 1, 3))
		return c
	case 8:
		return Command{RemoveFile: &RemoveFile{Name: name(), ID: maybe()}}
	case 9:
		d := &Distribute{Name: name(), ID: maybe(), All: n("all", 0, 3) == 0}
		if !d.All {
			d.Hosts = []HostID{host(), host()}
			d.Tags = drawTags(t)
		}
		return Command{Distribute: d}
	case 10:
		u := &Unpin{Name: name(), ID: maybe(), All: n("all", 0, 3) == 0}
		if !u.All {
			u.Hosts = []HostID{host()}
			u.Tags = drawTags(t)
		}
		return Command{Unpin: u}
	case 16, 17:
		i := n("content", 1, 4)
		c := &Adopt{Publish: *publishing(name(), i, i, n("replicas", 0, 3), n("publisher", 1, 9)).Publish}
		c.At, c.Rank = int64(n("at", 0, 4)), rapid.SampledFrom([]Rank{RankCareful, RankByTime, RankOlder}).Draw(t, "rank")
		return Command{Adopt: c}
	case 11, 12, 13:
		return Command{ReportDomains: drawDomains(t, host())}
	}
	r := &Report{Host: host()}
	for i := 1; i <= 4; i++ {
		switch n("holds", 0, 3) {
		case 0:
			r.Holdings = append(r.Holdings, Holding{digest(i), ShardSpan(0, n("hi", 0, 3))})
		case 1:
			r.Holdings = append(r.Holdings, Holding{digest(i), AllShards()})
		case 2:
			r.Dropped = append(r.Dropped, digest(i))
		}
	}
	return Command{Report: r}
}

// TestReplicasAgree applies random commands to one catalogue directly, to one through the log's encoding, and to one
// that is saved and restored before every command. They must be equal throughout, and keep the invariants.
func TestReplicasAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := newWorld(t, 2)
		second := newWorld(t, 2)
		third := newWorld(t, 2)
		for range rapid.IntRange(1, 40).Draw(t, "commands") {
			c := drawCommand(t)
			before := facts(t, first.State)
			r, err := first.Apply(first.next+1, c)
			first.next++
			second.next++
			p, encErr := EncodeCommand(c)
			if encErr != nil {
				if err == nil {
					t.Fatalf("%+v was applied but cannot be encoded: %v", c, encErr)
				}
				second.applied, third.State.applied = second.next, second.next
				continue
			}
			d, decErr := DecodeCommand(p)
			if decErr != nil {
				t.Fatalf("%s: %v", p, decErr)
			}
			r2, err2 := second.Apply(second.next, d)
			third.State, decErr = restoreLines(bytes.NewReader(lines(t, third.State)))
			if decErr != nil {
				t.Fatalf("restore: %v", decErr)
			}
			r3, err3 := third.Apply(second.next, d)
			if fmt.Sprint(r, err) != fmt.Sprint(r2, err2) || fmt.Sprint(r, err) != fmt.Sprint(r3, err3) {
				t.Fatalf("%s: %+v, %v; %+v, %v; %+v, %v", p, r, err, r2, err2, r3, err3)
			}
			after := image(t, first.State)
			for _, other := range []*State{second.State, third.State} {
				if twin := image(t, other); !bytes.Equal(after, twin) {
					t.Fatalf("replicas differ after %s: %s", p, firstDifference(after, twin))
				}
			}
			if (err != nil || !r.Changed) && !bytes.Equal(before, facts(t, first.State)) {
				t.Fatalf("%s changed something although it says (changed=%v, %v)", p, r.Changed, err)
			}
			checkInvariants(t, first.State)
			sameAnswers(t, first.State, third.State)
			if d.Ticket == nil {
				idempotent(t, second.State, d, r, err)
			}
		}
	})
}

// firstDifference is the first line in which two images differ.
func firstDifference(a, b []byte) string {
	la, lb := bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n"))
	for i := range min(len(la), len(lb)) {
		if !bytes.Equal(la[i], lb[i]) {
			return fmt.Sprintf("%s / %s", la[i], lb[i])
		}
	}
	return fmt.Sprintf("%d and %d lines", len(la), len(lb))
}

// idempotent repeats a command on a copy.
func idempotent(t *rapid.T, s *State, c Command, r Result, err error) {
	twin, restoreErr := restoreLines(bytes.NewReader(lines(t, s)))
	if restoreErr != nil {
		t.Fatalf("restore: %v", restoreErr)
	}
	before := image(t, twin)
	again, errAgain := twin.Apply(s.Applied()+1, c)
	if !bytes.Equal(before, image(t, twin)) {
		t.Fatalf("a repeated %s changed the catalogue (%+v, %v; then %+v, %v)", c.Kind(), r, err, again, errAgain)
	}
	gone := c.RemoveFile != nil && errors.Is(errAgain, ErrNoFile)
	if err == nil && errAgain != nil && !gone && !c.Settled(errAgain) {
		t.Fatalf("a repeated %s fails: %v", c.Kind(), errAgain)
	}
}

func checkInvariants(t *rapid.T, s *State) {
	for _, c := range s.contents {
		if len(c.names) == 0 {
			t.Fatalf("content %s has no name", c.id.Short())
		}
		for shard := range c.shards {
			homes := s.Homes(c.id, shard)
			want := 0 // who takes part
			for _, h := range s.Hosts() {
				if h.State == Alive || h.State == Down && s.Held(h.ID, c.id).Has(shard) {
					want++
				}
			}
			if c.replicas > 0 {
				want = min(want, c.replicas)
			}
			if len(homes) != want || len(slices.Compact(slices.Sorted(slices.Values(homes)))) != want {
				t.Fatalf("shard %d has homes %v, want %d different", shard, homes, want)
			}
			for _, h := range homes {
				if host, ok := s.Host(h); !ok || host.State != Alive && host.State != Down {
					t.Fatalf("home %s is gone: %+v", h, host)
				}
			}
			checkCounts(t, s, c, shard, homes)
		}
		for _, h := range c.holders {
			if _, ok := s.Host(h.Host); !ok || h.Shards.Empty() || h.Shards.Count(c.shards) == c.shards != h.Shards.All() {
				t.Fatalf("holder %+v", h)
			}
		}
		if got, want := s.replicationOf(c), s.countCopies(c); got != want {
			t.Fatalf("remembered %+v, counted %+v", got, want)
		}
	}
	for _, h := range s.Hosts() {
		checkSafe(t, s, h.ID)
	}
	checkDomains(t, s)
	for _, f := range s.Names("") {
		for _, v := range f.Versions {
			c, ok := s.Content(v.ID)
			if !ok || !slices.Contains(c.Names, f.Name) || c.Replicas != 0 && (v.Replicas == 0 || v.Replicas > c.Replicas) {
				t.Fatalf("version %+v of %q has content %+v", v, f.Name, c)
			}
		}
	}
}

// checkCounts counts the copies of a shard once more, the slow way.
func checkCounts(t *rapid.T, s *State, c *contentRecord, shard int, homes []HostID) {
	var want shardCount
	want.homes = uint16(len(homes))
	for _, h := range s.Hosts() {
		home, has := slices.Contains(homes, h.ID), s.Held(h.ID, c.id).Has(shard)
		if must := s.HomeShards(h.ID, c.id).Has(shard); must != (home || c.isTarget(h.ID)) {
			t.Fatalf("host %s must keep shard %d: %v, homes %v", h.ID, shard, must, homes)
		}
		want.reachable = want.reachable || has && h.State.Serves()
		if h.State != Alive {
			continue
		}
		if home {
			want.alive++
			if has {
				want.holding++
			}
		}
		if has && (home || c.isTarget(h.ID)) {
			want.copies++
		}
	}
	if got := s.counts(c)[shard]; got != want {
		t.Fatalf("shard %d of %s: %+v, want %+v", shard, c.id.Short(), got, want)
	}
}

// checkSafe lets a host drop what SafeWithout allows, on a copy: no count of copies may fall, and none may be short.
func checkSafe(t *rapid.T, s *State, host HostID) {
	for id, c := range s.contents {
		safe := s.SafeWithout(host, id)
		before := c.held(host)
		if safe.Empty() || before.Empty() {
			continue
		}
		left := before.Bits(c.shards)
		left.AndNot(safe.Bits(c.shards))
		n := c.copy()
		s.setHolder(n, host, ShardsIn(left))
		n.homes.Store(nil)
		counts := s.counts(c)
		for shard, now := range s.counts(n) {
			if now.copies != counts[shard].copies || safe.Has(shard) && int(now.copies) < s.wanted(c) {
				t.Fatalf("host %s drops shards %s of %s: shard %d had %d copies, has %d, wants %d",
					host, safe, id.Short(), shard, counts[shard].copies, now.copies, s.wanted(c))
			}
		}
	}
}

// sameAnswers compares what a snapshot does not hold but a restored catalogue derives.
func sameAnswers(t *rapid.T, a, b *State) {
	for _, since := range []uint64{0, a.Applied() / 2, a.Applied() - 1, a.Applied()} {
		ca, cb := a.ChangedSince(since), b.ChangedSince(since)
		byID := func(x, y content.Digest) int { return bytes.Compare(x[:], y[:]) }
		slices.SortFunc(ca.Contents, byID)
		slices.SortFunc(cb.Contents, byID)
		if fmt.Sprint(ca) != fmt.Sprint(cb) {
			t.Fatalf("changed since %d: %v, restored %v", since, ca, cb)
		}
	}
	if a.UnderReplicated() != b.UnderReplicated() || fmt.Sprint(a.Hosts(), a.Tokens(), a.Names("")) != fmt.Sprint(b.Hosts(), b.Tokens(), b.Names("")) {
		t.Fatalf("a restored catalogue answers differently")
	}
}

// rich is a catalogue with something of everything.
func rich(t fataler) *world {
	w := newWorld(t, 4)
	w.do(t, publishing("a", 1, 3, 2, 1))
	w.do(t, publishing("a", 2, 5, 0, 2))
	w.do(t, publishing("ü b", 1, 3, 3, 3))
	part, _ := ParseShardSet("0,2-3")
	w.do(t, Command{Report: &Report{Host: hostID(3), Holdings: []Holding{{digest(2), part}}}})
	w.do(t, Command{Distribute: &Distribute{Name: "a", Hosts: []HostID{hostID(1), hostID(2)}}})
	up, high := int64(1000), 70
	w.do(t, Command{UpdateHost: &UpdateHost{ID: hostID(1), Weight: 7, Labels: map[string]string{"rack": "<1>"}, Up: &up, High: &high}})
	w.do(t, Command{Distribute: &Distribute{Name: "ü b", Tags: []string{"web"}}})
	d := domainNumbered(1)
	d.Tags = []string{"web"}
	w.do(t, Command{ReportDomains: &ReportDomains{Host: hostID(2), Seq: 5, Domains: []Domain{d}}})
	w.do(t, Command{SetHostState: &SetHostState{ID: hostID(3), To: Down, Now: 9}})
	w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(4)}})
	for number := range uint64(3) {
		_, _ = w.Apply(w.next+1, Command{RemoveFile: &RemoveFile{Name: "z"}, Ticket: &Ticket{Host: hostID(2), Number: 3 - number}})
		w.next++
	}
	return w
}

func TestSnapshotIsLinesOfJSON(t *testing.T) {
	zip, err := gzip.NewReader(bytes.NewReader(freeze(t, rich(t).State)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"catalogue":{"version":5,`, `{"host":{"id":"` + string(hostID(1)), `"shards":"0,2-3"`, `{"end":{"records":`, `"rack":"<1>"`, `{"domain":{"uuid":"00000001-`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the snapshot has no %s:\n%s", want, text)
		}
	}
}

func TestSnapshotRestores(t *testing.T) {
	w := rich(t)
	s, err := Restore(bytes.NewReader(freeze(t, w.State)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(lines(t, s), lines(t, w.State)) {
		t.Error("restored something else")
	}
}

func TestFrozenDoesNotChange(t *testing.T) {
	w := rich(t)
	f := w.Freeze()
	var before, after bytes.Buffer
	if _, err := f.WriteTo(&before); err != nil {
		t.Fatal(err)
	}
	w.do(t, publishing("later", 9, 1, 1, 1))
	w.do(t, Command{RemoveFile: &RemoveFile{Name: "a"}, Ticket: &Ticket{Host: hostID(2), Number: 9}})
	w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(3)}})
	w.do(t, Command{UpdateHost: &UpdateHost{ID: hostID(1), Name: "renamed"}})
	if _, err := f.WriteTo(&after); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before.Bytes(), after.Bytes()) {
		t.Error("later commands changed a picture that was taken before")
	}
}

func TestSnapshotDamageIsNoticed(t *testing.T) {
	whole := freeze(t, rich(t).State)
	refused := func(p []byte, what string) {
		t.Helper()
		if _, err := Restore(bytes.NewReader(p)); !errors.Is(err, ErrBadSnapshot) {
			t.Fatalf("%s: %v, want ErrBadSnapshot", what, err)
		}
	}
	good := image(t, rich(t).State)
	for i := range whole {
		refused(whole[:i], fmt.Sprintf("cut to %d bytes", i))
		p := bytes.Clone(whole)
		p[i] ^= 8
		// Of gzip's own header the time and the like do not matter.
		if s, err := Restore(bytes.NewReader(p)); err == nil && !bytes.Equal(image(t, s), good) {
			t.Fatalf("byte %d flipped: restored something else", i)
		} else if err != nil && !errors.Is(err, ErrBadSnapshot) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
}

// repack makes a snapshot of lines, with a right end: what a buggy or malicious writer could do.
func repack(text []string) []byte {
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	for _, l := range text {
		fmt.Fprintln(zip, l)
	}
	_ = zip.Close()
	return b.Bytes()
}

func TestSnapshotRecordsAreChecked(t *testing.T) {
	head := `{"catalogue":{"version":1,"applied":9,"removed":0,"moved":0,"cluster":"c"}}`
	for what, lines := range map[string][]string{
		"nothing":        {},
		"no end":         {head},
		"wrong end":      {head, `{"end":{"records":1,"sha256":"00"}}`},
		"wrong count":    {head, `{"end":{"records":2,"sha256":"00"}}`},
		"version":        {`{"catalogue":{"version":5}}`},
		"version 0":      {`{"catalogue":{"version":0}}`},
		"no head":        {`{"host":{}}`},
		"unknown record": {head, `{"spell":{}}`},
		"unknown field":  {head, `{"file":{"name":"a","colour":"red"}}`},
		"empty record":   {head, `{}`},
		"bad host":       {head, `{"host":{"id":"x"}}`},
		"not JSON":       {head, `hello`},
	} {
		if _, err := Restore(bytes.NewReader(repack(lines))); !errors.Is(err, ErrBadSnapshot) {
			t.Errorf("%s: %v, want ErrBadSnapshot", what, err)
		}
	}
	if _, err := Restore(strings.NewReader("not gzip at all")); !errors.Is(err, ErrBadSnapshot) {
		t.Errorf("not gzip: %v", err)
	}
}

// FuzzRestore gives lines as they stand before compression, and mends the end, so that the fuzzer gets at the records.
func FuzzRestore(f *testing.F) {
	all := lines(f, rich(f).State)
	f.Add(all[:bytes.LastIndexByte(all[:len(all)-1], '\n')+1])
	f.Add([]byte(`{"catalogue":{"version":1,"cluster":""}}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := restoreLines(bytes.NewReader(seal(p)))
		if err != nil {
			if !errors.Is(err, ErrBadSnapshot) {
				t.Fatalf("%v is not ErrBadSnapshot", err)
			}
			return
		}
		// What was taken must be a catalogue that works and can be saved again.
		small := true // a file of 64 TiB is fine, but the fuzzer's time is short
		for _, c := range s.contents {
			small = small && c.shards < 1000
		}
		if small {
			s.UnderReplicated()
			for _, h := range s.Hosts() {
				s.Must(h.ID, 0)
			}
		}
		back, err := restoreLines(bytes.NewReader(lines(t, s)))
		if err != nil || !bytes.Equal(image(t, s), image(t, back)) {
			t.Fatalf("saved and restored again: %v", err)
		}
		_, _ = s.Apply(s.Applied()+1, publishing("a", 1, 3, 2, 1))
	})
}

// FuzzRestoreBytes gives the compressed bytes.
func FuzzRestoreBytes(f *testing.F) {
	f.Add(freeze(f, rich(f).State))
	f.Add(freeze(f, New()))
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, err := Restore(bytes.NewReader(p)); err != nil && !errors.Is(err, ErrBadSnapshot) {
			t.Fatalf("%v is not ErrBadSnapshot", err)
		}
	})
}
