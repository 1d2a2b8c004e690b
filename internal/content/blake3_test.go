package content

import (
	"testing"

	"lukechampine.com/blake3"
)

// The tree walk of Sum against known digests and, at every size at which the tree changes its shape, against the
// library's own.
func TestSumIsBLAKE3(t *testing.T) {
	for text, want := range map[string]string{
		"":    "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		"abc": "b3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
	} {
		if got := Sum([]byte(text)).String(); got != want {
			t.Errorf("Sum(%q) = %s, want %s", text, got, want)
		}
	}
	sizes := []int{1, 63, 64, 65, 1023, 1024, 1025, 2048, 5000}
	for n := 1; n <= 20; n++ {
		sizes = append(sizes, n*subtree-1, n*subtree, n*subtree+1, n*subtree+1024, n*subtree+5000)
	}
	sizes = append(sizes, 1<<20, 1<<20+1, 16<<20)
	p := make([]byte, 16<<20)
	for i := range p {
		p[i] = byte(i % 251)
	}
	for _, n := range sizes {
		if got, want := Sum(p[:n]), Digest(blake3.Sum256(p[:n])); got != want {
			t.Errorf("Sum of %d bytes is %s, want %s", n, got, want)
		}
	}
}
