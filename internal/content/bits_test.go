package content

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func genBits(t *rapid.T, n int, label string) (Bits, map[int]bool) {
	b, model := NewBits(n), map[int]bool{}
	if n == 0 {
		return b, model
	}
	for range rapid.IntRange(0, 12).Draw(t, label+" steps") {
		lo := rapid.IntRange(0, n).Draw(t, label+" lo")
		hi := rapid.IntRange(lo, n).Draw(t, label+" hi")
		b.SetRange(lo, hi)
		for i := lo; i < hi; i++ {
			model[i] = true
		}
		i := rapid.IntRange(0, n-1).Draw(t, label+" clear")
		b.Clear(i)
		delete(model, i)
	}
	return b, model
}

func wantMembers(t *rapid.T, what string, b Bits, model map[int]bool) {
	count := 0
	for i := range b.Len() {
		if b.Has(i) != model[i] {
			t.Fatalf("%s: member %d is %v", what, i, b.Has(i))
		}
		if model[i] {
			count++
		}
	}
	if b.Count() != count || b.Full() != (count == b.Len()) {
		t.Fatalf("%s: Count %d, Full %v with %d of %d members", what, b.Count(), b.Full(), count, b.Len())
	}
}

func TestBitsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 300).Draw(t, "n")
		a, am := genBits(t, n, "a")
		b, bm := genBits(t, n, "b")
		wantMembers(t, "a", a, am)

		for from := -1; from <= n+1; from++ {
			for _, present := range []bool{true, false} {
				find := a.NextClear
				if present {
					find = a.NextSet
				}
				got, ok := find(from)
				want, found := max(from, 0), false
				for ; want < n && !found; want++ {
					found = am[want] == present
				}
				if ok != found || ok && got != want-1 {
					t.Fatalf("next %v from %d is %d, %v", present, from, got, ok)
				}
			}
		}

		or, and, not := a.Clone(), a.Clone(), a.Clone()
		or.Or(b)
		and.And(b)
		not.AndNot(b)
		orm, andm, notm := map[int]bool{}, map[int]bool{}, map[int]bool{}
		for i := range n {
			if am[i] || bm[i] {
				orm[i] = true
			}
			if am[i] && bm[i] {
				andm[i] = true
			}
			if am[i] && !bm[i] {
				notm[i] = true
			}
		}
		wantMembers(t, "or", or, orm)
		wantMembers(t, "and", and, andm)
		wantMembers(t, "and not", not, notm)
		wantMembers(t, "the operand", a, am)
		if a.Equal(b) != (not.Count() == 0 && a.Count() == b.Count()) {
			t.Fatal("Equal is wrong")
		}
	})
}

func TestBitsEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 2000).Draw(t, "n")
		b, _ := genBits(t, n, "b")
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, max(0, n-1)), 0, 600).Draw(t, "singles") {
			if n > 0 {
				b.Set(i)
			}
		}
		p := b.Encode()
		if len(p) > MaxBitsSize(n) {
			t.Fatalf("%d bytes for %d indexes", len(p), n)
		}
		got, err := DecodeBits(p, n)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(b) {
			t.Fatal("the set has changed on the way")
		}
	})
}

// TestBitsGolden holds the format itself still.
func TestBitsGolden(t *testing.T) {
	set := func(n int, members ...int) Bits {
		b := NewBits(n)
		for _, i := range members {
			b.Set(i)
		}
		return b
	}
	full := NewBits(1000)
	full.SetRange(0, 1000)
	for _, c := range []struct {
		b    Bits
		want []byte
	}{
		{set(0), []byte{0}},
		{set(1000), []byte{0}},
		{full, []byte{0, 0}},
		{set(1000, 5), []byte{0, 5, 1}},
		{set(1000, 998, 999), []byte{0, 0xe6, 0x07}},
		{set(16, 1, 3, 5, 7, 9, 15), []byte{1, 0xaa, 0x82}},
	} {
		if got := c.b.Encode(); !bytes.Equal(got, c.want) {
			t.Errorf("%d of %d: % x, want % x", c.b.Count(), c.b.Len(), got, c.want)
		}
	}
}

func TestBitsRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		p []byte
		n int
	}{
		"nothing":           {nil, 8},
		"unknown form":      {[]byte{2}, 8},
		"negative length":   {[]byte{0}, -1},
		"huge length":       {[]byte{0}, MaxChunks + 1},
		"too many bytes":    {[]byte{0, 1, 1}, 8},
		"run past the end":  {[]byte{0, 100}, 64},
		"run to the end":    {[]byte{0, 64}, 64},
		"empty run":         {[]byte{0, 1, 0, 1}, 64},
		"long uvarint":      {[]byte{0, 0x81, 0}, 64},
		"raw but runs fit":  {[]byte{1, 0xff}, 8},
		"raw too short":     {[]byte{1, 0xaa}, 16},
		"raw beyond length": {[]byte{1, 0xaa, 0xaa}, 12},
	} {
		if _, err := DecodeBits(c.p, c.n); !errors.Is(err, ErrBadBits) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeBits(f *testing.F) {
	f.Add([]byte{0}, 0)
	f.Add([]byte{0, 0}, 100)
	f.Add([]byte{0, 5, 1}, 1000)
	f.Add([]byte{1, 0xaa, 0x82}, 16)
	f.Fuzz(func(t *testing.T, p []byte, n int) {
		b, err := DecodeBits(p, n)
		if err != nil {
			if !errors.Is(err, ErrBadBits) {
				t.Fatalf("not an ErrBadBits: %v", err)
			}
			return
		}
		if b.Len() != n || b.Count() > n {
			t.Fatalf("%d of %d members, want a length of %d", b.Count(), b.Len(), n)
		}
		if !bytes.Equal(b.Encode(), p) {
			t.Fatal("a second encoding of the same set")
		}
	})
}
