package server

import (
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// TestParseID: no id means the newest version, and only that does.
func TestParseID(t *testing.T) {
	id := content.Sum([]byte("a"))
	for text, want := range map[string]content.Digest{"": {}, id.String(): id} {
		if got, err := parseID(text); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]reason.Reason{"b3:12": reason.Usage, content.Digest{}.String(): reason.NotFound} {
		if got, err := parseID(text); reason.Of(err) != want {
			t.Errorf("%q: %v, %v, want reason %v", text, got, err, want)
		}
	}
}
