package plan

import "math/bits"

// mask is a fixed-length set of chunk indexes whose words the picker may
// combine. content.Bits is the same set for the outside; the picker needs the
// words themselves, because "the lowest chunk that is open AND rare AND held by
// this source" is one pass over three arrays, 64 chunks a step.
type mask []uint64

func newMask(n int) mask { return make(mask, (n+63)/64) }

func (m mask) has(i int) bool { return m[i>>6]&(1<<(i&63)) != 0 }
func (m mask) set(i int)      { m[i>>6] |= 1 << (i & 63) }
func (m mask) clear(i int)    { m[i>>6] &^= 1 << (i & 63) }

// put sets or clears i.
func (m mask) put(i int, in bool) {
	if in {
		m.set(i)
	} else {
		m.clear(i)
	}
}

// remove takes out what is in o.
func (m mask) remove(o mask) {
	for w := range m {
		m[w] &^= o[w]
	}
}

// firstIn returns the lowest index >= from that is in a, b, c and d. A nil mask
// among b, c and d means "every chunk".
func firstIn(from int, a, b, c, d mask) (int, bool) {
	w := from >> 6
	if w >= len(a) {
		return 0, false
	}
	keep := ^uint64(0) << (from & 63)
	for ; w < len(a); w++ {
		x := a[w] & keep
		keep = ^uint64(0)
		if x == 0 {
			continue
		}
		if b != nil {
			x &= b[w]
		}
		if c != nil {
			x &= c[w]
		}
		if d != nil {
			x &= d[w]
		}
		if x != 0 {
			return w<<6 + bits.TrailingZeros64(x), true
		}
	}
	return 0, false
}

// firstFrom is firstIn, begun at from and wrapped around the end.
func firstFrom(from int, a, b, c, d mask) (int, bool) {
	if i, ok := firstIn(from, a, b, c, d); ok || from == 0 {
		return i, ok
	}
	// What lies at or above from was just seen to be empty.
	return firstIn(0, a, b, c, d)
}

// before returns the highest index below from that is in m, -1 if there is none.
func (m mask) before(from int) int {
	w := from >> 6
	if w < len(m) {
		if x := m[w] & (1<<(from&63) - 1); x != 0 {
			return w<<6 + bits.Len64(x) - 1
		}
	}
	for w = min(w, len(m)) - 1; w >= 0; w-- {
		if m[w] != 0 {
			return w<<6 + bits.Len64(m[w]) - 1
		}
	}
	return -1
}

// within returns the first index in [lo, hi) that is in m, counted from start and around the end.
func within(m mask, start, lo, hi int) (int, bool) {
	if start > lo && start < hi {
		if i, ok := firstIn(start, m, nil, nil, nil); ok && i < hi {
			return i, true
		}
	}
	i, ok := firstIn(lo, m, nil, nil, nil)
	return i, ok && i < hi
}

// longest returns a place about the middle of the longest run of m in [lo, hi), which is not empty: between a quarter
// and three quarters of it, as lot says.
func longest(m mask, lo, hi int, lot uint64) int {
	best, size := lo, 0
	for from := lo; from < hi; {
		i, ok := firstIn(from, m, nil, nil, nil)
		if !ok || i >= hi {
			break
		}
		end := i
		for end < hi && m.has(end) {
			end++
		}
		if end-i > size {
			best, size = i, end-i
		}
		from = end
	}
	return best + size/4 + int(lot%uint64(size/2+1))
}

// run returns the largest range [lo, hi) around c that is all in m, a set of n.
func run(m mask, c, n int) (lo, hi int) {
	for hi = c; hi < n; hi++ {
		if hi&63 == 0 && m[hi>>6] == ^uint64(0) {
			hi += 63
		} else if !m.has(hi) {
			break
		}
	}
	for lo = c; lo > 0; lo-- {
		if lo&63 == 0 && m[lo>>6-1] == ^uint64(0) {
			lo -= 63
		} else if !m.has(lo - 1) {
			break
		}
	}
	return lo, min(hi, n)
}
