package guestagent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/virtswarm/virtswarm/internal/content"
)

// TestSpans: the requests ask for every chunk that is missing once, for none that is there, and none for too much.
func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "chunks")
		size := content.MinChunkSize << rapid.IntRange(0, 8).Draw(t, "chunk size")
		digests := make([]content.Digest, n)
		for i := range digests {
			if rapid.IntRange(0, 3).Draw(t, "hole") > 0 {
				digests[i] = content.Sum([]byte{byte(i), byte(i >> 8)})
			}
		}
		m, err := content.NewManifest(int64(n)*int64(size), size, digests)
		if err != nil {
			t.Fatal(err)
		}
		have := m.Holes()
		for i := range n {
			if rapid.Bool().Draw(t, "held") {
				have.Set(i)
			}
		}
		asked := content.NewBits(n)
		for _, s := range spans(m, have) {
			if s.count < 1 || s.count > 1 && s.count*size > askBytes {
				t.Fatalf("%d chunks of %d bytes at a time", s.count, size)
			}
			for i := s.first; i < s.first+s.count; i++ {
				if m.IsHole(i) {
					continue
				}
				if have.Has(i) || asked.Has(i) {
					t.Fatalf("chunk %d is there, or asked for twice", i)
				}
				asked.Set(i)
			}
		}
		asked.Or(have)
		if !asked.Full() {
			t.Fatalf("%d of %d chunks are never asked for", n-asked.Count(), n)
		}
	})
}

// TestPullDestinations refuses, before any host is asked, destinations that cannot be.
func TestPullDestinations(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &Agent{Link: "unix:///nowhere", Patience: -1}
	for dest, want := range map[string]error{
		dir: ErrExists, file: ErrExists, filepath.Join(dir, "none", "x"): os.ErrNotExist, filepath.Join(file, "x"): nil, filepath.Join(dir, "x"): ErrNoLink,
	} {
		if _, err := a.Pull(t.Context(), "name", dest, PullOptions{}); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("to %s: %v, want %v", dest, err, want)
		}
	}
	if text, _ := os.ReadFile(file); string(text) != "mine" {
		t.Error("a file was touched")
	}
}
