package simtest

import (
	"bytes"
	"errors"
	"flag"
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

var searchFlag = flag.Bool("search", false, "look for the deliberate mistakes from seed 0 on, and not first with the seed that is known to find each")

// TestBugsAreFound builds the simulation with one deliberate mistake after the other. A check that does not find them
// is worth nothing.
func TestBugsAreFound(t *testing.T) {
	switch {
	case testing.Short():
		t.Skip("-short: it builds everything once for each mistake")
	case seeds < bugSeeds:
		t.Skip("with the race detector: the mistakes are no races, and are found without it")
	case *seedFlag >= 0 || *strideFlag > 0:
		t.Skip("not asked for")
	}
	for _, m := range readMistakes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), m.name)
			build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", m.overlay(t), "-o", program, ".")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build with %s: %v\n%s", m.name, err, out)
			}
			if m.seed > 0 && !*searchFlag && finds(t, program, m.foundBy, m.seed, 1) {
				return
			}
			for from := uint64(0); from < bugSeeds; from += bugBatch {
				if finds(t, program, m.foundBy, from, bugBatch) {
					return
				}
			}
			t.Errorf("not found in %d seeds", bugSeeds)
		})
	}
}

// finds runs seeds and says whether one tells of a violation, with some words.
func finds(t *testing.T, program, want string, from, n uint64) bool {
	cmd := exec.Command(program, "-test.run=TestSeeds", "-stride=1", fmt.Sprint("-from=", from), fmt.Sprint("-seeds=", n))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if _, ended := errors.AsType[*exec.ExitError](err); !ended {
		t.Fatal(err)
	}
	if !bytes.Contains(out, []byte("VIOLATION: ")) {
		t.Fatalf("the simulation itself failed:\n%s", out)
	}
	before, found, ok := bytes.Cut(out, []byte("VIOLATION: "+want))
	if !ok {
		return false
	}
	_, seed, _ := bytes.Cut(before[max(0, bytes.LastIndex(before, []byte(": seed "))):], []byte(": seed "))
	seed, _, _ = bytes.Cut(seed, []byte(","))
	text, _, _ := bytes.Cut(found, []byte("\n"))
	t.Logf("found by seed %s: %.200s", seed, want+string(text))
	return true
}
