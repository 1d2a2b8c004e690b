package simtest

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
)

const (
	// bugSeeds is how many seeds may pass before a deliberate mistake must have been found; bugBatch how many are run at
	// a time.
	bugSeeds, bugBatch = 60, 4
)

// TestBugsAreFound builds the simulation with one deliberate mistake after the other. A check that does not find them
// is worth nothing.
func TestBugsAreFound(t *testing.T) {
	switch {
	case testing.Short():
		t.Skip("-short: it builds everything once for each mistake")
	case seeds < bugSeeds:
		t.Skip("with the race detector: the mistakes are no races, and are found without it")
	case *seedFlag >= 0:
		t.Skip("not asked for")
	}
	for _, m := range readMistakes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), m.name)
			build := exec.Command("go", "test", "-c", "-overlay", m.overlay(t), "-o", program, ".")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build with %s: %v\n%s", m.name, err, out)
			}
			find(t, program, m.foundBy)
		})
	}
}

// find runs seeds until one tells of a violation, with some words.
func find(t *testing.T, program, want string) {
	for from := 0; from < bugSeeds; from += bugBatch {
		cmd := exec.Command(program, "-test.run=TestSeeds", fmt.Sprint("-from=", from), fmt.Sprint("-seeds=", bugBatch))
		out, err := cmd.CombinedOutput()
		if err == nil {
			continue
		}
		if _, ended := errors.AsType[*exec.ExitError](err); !ended {
			t.Fatal(err)
		}
		_, found, ok := bytes.Cut(out, []byte("VIOLATION: "+want))
		if !ok {
			t.Fatalf("the simulation itself failed:\n%s", out)
		}
		text, _, _ := bytes.Cut(found, []byte("\n"))
		t.Logf("found with seeds %d to %d: %.200s", from, from+bugBatch-1, want+string(text))
		return
	}
	t.Errorf("not found in %d seeds", bugSeeds)
}
