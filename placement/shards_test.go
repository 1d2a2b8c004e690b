package placement

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/virtswarm/virtswarm/internal/content"
)

func TestShardSetsAreSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 70).Draw(t, "n")
		bits := content.NewBits(n)
		for i := range n {
			if rapid.Bool().Draw(t, "has") {
				bits.Set(i)
			}
		}
		s := ShardsIn(bits)
		if s.Count(n) != bits.Count() || s.Full(n) != bits.Full() || s.Empty() != (bits.Count() == 0) || !s.Bits(n).Equal(bits) {
			t.Fatalf("%q does not match %v", s, bits)
		}
		for i := range n {
			if s.Has(i) != bits.Has(i) {
				t.Fatalf("%q: has %d", s, i)
			}
		}
		back, err := ParseShardSet(s.String())
		if err != nil || !back.Equal(s) {
			t.Fatalf("%q came back as %q: %v", s, back, err)
		}
		in, err := s.within(n)
		if err != nil || in.All() != s.Full(n) {
			t.Fatalf("%q within %d: %q, %v", s, n, in, err)
		}
		if last := n - 1; s.Has(last) {
			if _, err := s.within(last); err == nil {
				t.Fatalf("%q passes for a set of %d", s, last)
			}
		}
	})
}

func TestAllShards(t *testing.T) {
	s := AllShards()
	if s.String() != "all" || s.Count(5) != 5 || !s.Full(5) || !s.Has(4) || s.Empty() || s.Bits(5).Count() != 5 || s.Equal(ShardSet{}) {
		t.Errorf("all shards: %q", s)
	}
	if s := ShardSpan(2, 4); s.String() != "2-3" || !ShardSpan(3, 3).Empty() {
		t.Errorf("span: %q", s)
	}
}

func FuzzParseShardSet(f *testing.F) {
	for _, s := range []string{"", "all", "0", "0-3,7", "5,4", "1-1", "0-0", "3-2", "1,2", "+1", "01", "1048575", "1048576", "4294967296"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseShardSet(text)
		if err == nil && s.String() != text {
			t.Fatalf("%q is not canonical: it reads as %q", text, s)
		}
	})
}

func TestShardsAndChunks(t *testing.T) {
	per := content.ShardSize / content.MaxChunkSize
	digests := make([]content.Digest, 3*per+1) // four shards, the last with one chunk; all but two are data
	for i := range digests {
		digests[i] = digest(i)
	}
	digests[per], digests[3*per] = content.Digest{}, content.Digest{} // holes
	m, err := content.NewManifest(int64(len(digests))*content.MaxChunkSize, content.MaxChunkSize, digests)
	if err != nil {
		t.Fatal(err)
	}
	set, _ := ParseShardSet("1,3")
	chunks := set.Chunks(m)
	if chunks.Count() != per+1 || !chunks.Has(per) || chunks.Has(per-1) || !chunks.Has(3*per) {
		t.Errorf("chunks of %q: %v", set, chunks)
	}
	if AllShards().Chunks(m).Count() != m.Chunks() {
		t.Error("all shards are not all chunks")
	}
	have := content.NewBits(m.Chunks())
	if got := ShardsHeld(m, have).String(); got != "3" {
		t.Errorf("with nothing, shards %q are held, want 3: it has only a hole", got)
	}
	have.SetRange(0, 2*per)
	have.Clear(per) // a hole need not be held
	if got := ShardsHeld(m, have).String(); got != "0-1,3" {
		t.Errorf("shards held: %q", got)
	}
	have.SetRange(0, m.Chunks())
	if got := ShardsHeld(m, have).String(); got != "all" {
		t.Errorf("shards held: %q, want all", got)
	}
	empty, err := content.NewManifest(0, content.DefaultChunkSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := ShardsHeld(empty, content.NewBits(0)); !got.All() {
		t.Errorf("of an empty file %q is held, want all", got)
	}
	if got := ShardSpan(0, 1).Chunks(empty); got.Len() != 0 {
		t.Errorf("an empty file has chunks %v", got)
	}
}
