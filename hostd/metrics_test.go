package hostd

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every metric of ours is in the manual, and the manual tells of no other.
func TestMetricsAreDocumented(t *testing.T) {
	dir := t.TempDir()
	h, err := New(context.Background(), Config{
		Data: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Socket: filepath.Join(dir, "socket"), Name: "h",
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	families, err := h.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "virtswarm_") {
			have[f.GetName()] = true
		}
	}
	for _, desc := range []string{"virtswarm_peer_up_bytes_per_second", "virtswarm_peer_down_bytes_per_second"} {
		have[desc] = true // for each peer, and there is none
	}
	manual, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("`(virtswarm_[a-z_]+)").FindAllStringSubmatch(string(manual), -1) {
		told[m[1]] = true
	}
	for name := range have {
		if !told[name] {
			t.Errorf("docs/operations.md does not tell of %s", name)
		}
	}
	for name := range told {
		if !have[name] {
			t.Errorf("docs/operations.md tells of %s, which there is not", name)
		}
	}
}
