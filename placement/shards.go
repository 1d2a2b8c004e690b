package placement

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/virtswarm/virtswarm/internal/content"
)

// ShardSet is an immutable set of shard numbers: all of a content, or spans. The zero value is empty. Its text form
// is "all", or spans like "0-3,7" in ascending order that neither overlap nor touch, or "" if empty. It is safe for
// concurrent use.
type ShardSet struct {
	all   bool
	spans []span
}

// span is lo <= shard < hi.
type span struct{ lo, hi int }

// AllShards is every shard, however many the content has.
func AllShards() ShardSet { return ShardSet{all: true} }

// ShardSpan is lo <= shard < hi.
func ShardSpan(lo, hi int) ShardSet {
	if lo >= hi {
		return ShardSet{}
	}
	return ShardSet{spans: []span{{lo, hi}}}
}

// ShardsIn returns the set of bits that are set.
func ShardsIn(bits content.Bits) ShardSet {
	var s ShardSet
	for lo, ok := bits.NextSet(0); ok; lo, ok = bits.NextSet(lo) {
		hi, more := bits.NextClear(lo)
		if !more {
			hi = bits.Len()
		}
		s.spans = append(s.spans, span{lo, hi})
		lo = hi
	}
	return s
}

// All reports whether the set is AllShards.
func (s ShardSet) All() bool { return s.all }

// Empty reports whether the set has no shard.
func (s ShardSet) Empty() bool { return !s.all && len(s.spans) == 0 }

// Has reports whether the shard is in the set.
func (s ShardSet) Has(shard int) bool {
	if s.all {
		return true
	}
	i := sort.Search(len(s.spans), func(i int) bool { return s.spans[i].hi > shard })
	return i < len(s.spans) && s.spans[i].lo <= shard
}

// each calls f for the shards of the set, of a content of n shards, in ascending order.
func (s ShardSet) each(n int, f func(shard int)) {
	spans := s.spans
	if s.all {
		spans = []span{{0, n}}
	}
	for _, p := range spans {
		for shard := p.lo; shard < min(p.hi, n); shard++ {
			f(shard)
		}
	}
}

// Count returns how many of the content's n shards are in the set.
func (s ShardSet) Count(n int) int {
	if s.all {
		return n
	}
	c := 0
	for _, p := range s.spans {
		c += max(0, min(p.hi, n)-p.lo)
	}
	return c
}

// Full reports whether all of the content's n shards are in the set.
func (s ShardSet) Full(n int) bool { return s.Count(n) == n }

// Bits returns the set as bits of length n.
func (s ShardSet) Bits(n int) content.Bits {
	b := content.NewBits(n)
	if s.all {
		b.SetRange(0, n)
		return b
	}
	for _, p := range s.spans {
		if hi := min(p.hi, n); p.lo < hi {
			b.SetRange(p.lo, hi)
		}
	}
	return b
}

// Equal reports whether both sets have the same shards.
func (s ShardSet) Equal(o ShardSet) bool {
	if s.all != o.all || len(s.spans) != len(o.spans) {
		return false
	}
	for i := range s.spans {
		if s.spans[i] != o.spans[i] {
			return false
		}
	}
	return true
}

// within returns the set as a set of a content of n shards: full becomes AllShards, so that equal sets look equal.
// It fails if the set names a shard that the content does not have.
func (s ShardSet) within(n int) (ShardSet, error) {
	if s.all {
		return s, nil
	}
	if k := len(s.spans); k > 0 && s.spans[k-1].hi > n {
		return ShardSet{}, fmt.Errorf("shard %d of %d: %w", s.spans[k-1].hi-1, n, ErrContentConflict)
	}
	if s.Full(n) {
		return AllShards(), nil
	}
	return s, nil
}

func (s ShardSet) String() string {
	if s.all {
		return "all"
	}
	var b strings.Builder
	for i, p := range s.spans {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(p.lo))
		if p.hi-p.lo > 1 {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(p.hi - 1))
		}
	}
	return b.String()
}

// ParseShardSet reads the text form; anything that String would not have written is refused.
func ParseShardSet(text string) (ShardSet, error) {
	switch text {
	case "all":
		return AllShards(), nil
	case "":
		return ShardSet{}, nil
	}
	var s ShardSet
	for field := range strings.SplitSeq(text, ",") {
		p, err := parseSpan(field)
		if err != nil {
			return ShardSet{}, err
		}
		if n := len(s.spans); n > 0 && p.lo <= s.spans[n-1].hi {
			return ShardSet{}, fmt.Errorf("parse shards %.40q: not ascending: %w", text, ErrBadCommand)
		}
		s.spans = append(s.spans, p)
	}
	if s.String() != text {
		return ShardSet{}, fmt.Errorf("parse shards %.40q: not canonical: %w", text, ErrBadCommand)
	}
	return s, nil
}

func parseSpan(field string) (span, error) {
	first, last, isRange := strings.Cut(field, "-")
	lo, err := strconv.ParseUint(first, 10, 31)
	hi := lo
	if err == nil && isRange {
		hi, err = strconv.ParseUint(last, 10, 31)
	}
	if err != nil || hi < lo || hi >= MaxShards {
		return span{}, fmt.Errorf("parse shards %.40q: %w", field, ErrBadCommand)
	}
	return span{int(lo), int(hi) + 1}, nil
}

// MarshalText implements encoding.TextMarshaler.
func (s ShardSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *ShardSet) UnmarshalText(p []byte) (err error) {
	*s, err = ParseShardSet(string(p))
	return err
}

// Chunks returns the chunks of m that the shards consist of.
func (s ShardSet) Chunks(m *content.Manifest) content.Bits {
	b := content.NewBits(m.Chunks())
	if s.all {
		b.SetRange(0, m.Chunks())
		return b
	}
	for _, p := range s.spans {
		if hi := min(p.hi, m.Shards()); p.lo < hi {
			lo, _ := m.ShardChunks(p.lo)
			_, end := m.ShardChunks(hi - 1)
			b.SetRange(lo, end)
		}
	}
	return b
}

// ShardsHeld returns the shards of which have, a set of m's chunks, has every chunk that is not a hole: what a host
// may report. An empty file is held by whoever asks.
func ShardsHeld(m *content.Manifest, have content.Bits) ShardSet {
	missing := content.NewBits(max(m.Shards(), 1))
	m.Data(func(i int, _ content.Digest) bool {
		if !have.Has(i) {
			missing.Set(m.ShardOf(i))
		}
		return true
	})
	held := content.NewBits(missing.Len())
	held.SetRange(0, held.Len())
	held.AndNot(missing)
	if held.Full() {
		return AllShards()
	}
	return ShardsIn(held)
}
