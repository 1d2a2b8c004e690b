package content

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// The empty input's digest is the one BLAKE3's authors publish in their test vectors.
const emptyDigest = "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"

func TestDigestText(t *testing.T) {
	d := Sum(nil)
	if d.String() != emptyDigest {
		t.Fatalf("digest of nothing is %s", d)
	}
	if got, err := ParseDigest(emptyDigest); err != nil || got != d {
		t.Errorf("parsed %v, %v", got, err)
	}
	if d.Short() != emptyDigest[:15] {
		t.Errorf("short form %s", d.Short())
	}
	p, err := json.Marshal(map[string]Digest{"id": d})
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]Digest
	if err := json.Unmarshal(p, &back); err != nil || back["id"] != d {
		t.Errorf("%s came back as %v, %v", p, back, err)
	}
	for _, bad := range []string{
		"", "b3:", emptyDigest[3:], "B3:" + emptyDigest[3:], "b3:" + strings.ToUpper(emptyDigest[3:]),
		emptyDigest + "0", emptyDigest[:66], emptyDigest[:66] + "g", " " + emptyDigest, "sha256:" + emptyDigest[3:],
	} {
		if _, err := ParseDigest(bad); !errors.Is(err, ErrBadDigest) {
			t.Errorf("ParseDigest(%q): %v", bad, err)
		}
	}
}

func TestSumDoesNotAllocate(t *testing.T) {
	for _, n := range []int{0, 100, DefaultChunkSize} {
		p := make([]byte, n)
		if allocs := testing.AllocsPerRun(10, func() { Sum(p) }); allocs != 0 {
			t.Errorf("%v allocations for %d bytes", allocs, n)
		}
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(emptyDigest)
	f.Add("b3:")
	f.Add("b3:" + strings.Repeat("G", 64))
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDigest(s)
		if err == nil && d.String() != s {
			t.Errorf("%q was taken for %s", s, d)
		}
	})
}
