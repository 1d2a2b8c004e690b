package content

import (
	"fmt"
	"math/bits"
)

// Bits is a set of indexes from 0 up to a fixed length: the chunks of a file, or its shards, that somebody
// holds. Like a slice, a copied Bits shares its members with the original; Clone makes one apart. It is not safe
// for concurrent use. An index out of range panics. The zero Bits has length 0.
type Bits struct {
	words []uint64 // bits from n on are zero
	n     int
}

// NewBits returns an empty set of indexes below n.
func NewBits(n int) Bits {
	return Bits{words: make([]uint64, (n+63)/64), n: n}
}

// Len returns the length: indexes are below it.
func (b Bits) Len() int { return b.n }

// Has reports whether i is in the set.
func (b Bits) Has(i int) bool {
	b.check(i)
	return b.words[i>>6]&(1<<(i&63)) != 0
}

// Set puts i into the set.
func (b Bits) Set(i int) {
	b.check(i)
	b.words[i>>6] |= 1 << (i & 63)
}

// Clear takes i out of the set.
func (b Bits) Clear(i int) {
	b.check(i)
	b.words[i>>6] &^= 1 << (i & 63)
}

// SetRange puts lo up to, not including, hi into the set.
func (b Bits) SetRange(lo, hi int) {
	if lo == hi {
		return
	}
	b.check(lo)
	b.check(hi - 1)
	for lo < hi {
		end := min(lo|63+1, hi)
		b.words[lo>>6] |= (^uint64(0) >> (64 - (end - lo))) << (lo & 63)
		lo = end
	}
}

// Count returns how many indexes are in the set.
func (b Bits) Count() int {
	n := 0
	for _, w := range b.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Full reports whether every index is in the set; a set of length 0 is full.
func (b Bits) Full() bool {
	_, gap := b.NextClear(0)
	return !gap
}

// Equal reports whether both sets have the same length and members.
func (b Bits) Equal(o Bits) bool {
	if b.n != o.n {
		return false
	}
	for i, w := range b.words {
		if w != o.words[i] {
			return false
		}
	}
	return true
}

// Clone returns a copy that shares nothing with b.
func (b Bits) Clone() Bits {
	c := Bits{words: make([]uint64, len(b.words)), n: b.n}
	copy(c.words, b.words)
	return c
}

// Or adds the members of o, which must have the same length.
func (b Bits) Or(o Bits) {
	b.same(o)
	for i, w := range o.words {
		b.words[i] |= w
	}
}

// And keeps the members that o, which must have the same length, has too.
func (b Bits) And(o Bits) {
	b.same(o)
	for i, w := range o.words {
		b.words[i] &= w
	}
}

// AndNot removes the members of o, which must have the same length.
func (b Bits) AndNot(o Bits) {
	b.same(o)
	for i, w := range o.words {
		b.words[i] &^= w
	}
}

// NextSet returns the first member at or after from; ok is false if there is none.
func (b Bits) NextSet(from int) (i int, ok bool) { return b.next(from, 0) }

// NextClear returns the first index at or after from that is not a member; ok is false if there is none.
func (b Bits) NextClear(from int) (i int, ok bool) { return b.next(from, ^uint64(0)) }

// next finds the first one bit at or after from in the words after an exclusive or with flip.
func (b Bits) next(from int, flip uint64) (int, bool) {
	from = max(from, 0)
	if from >= b.n {
		return 0, false
	}
	k := from >> 6
	w := (b.words[k] ^ flip) >> (from & 63) << (from & 63)
	for w == 0 {
		if k++; k == len(b.words) {
			return 0, false
		}
		w = b.words[k] ^ flip
	}
	// Bits past the end look clear, so a search for a clear one may run off the end.
	i := k<<6 + bits.TrailingZeros64(w)
	return i, i < b.n
}

func (b Bits) check(i int) {
	if uint(i) >= uint(b.n) {
		panic(fmt.Sprintf("content: bit %d of %d", i, b.n))
	}
}

func (b Bits) same(o Bits) {
	if b.n != o.n {
		panic(fmt.Sprintf("content: sets of %d and %d bits", b.n, o.n))
	}
}
