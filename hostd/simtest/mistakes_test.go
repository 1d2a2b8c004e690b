package simtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// root is the module's directory, seen from this package's.
const root = "../.."

// mistake is a deliberate mistake that the simulation must find. It is described by a file of mistakes/: what is wrong;
// perhaps "found by: " and the words of the one check that must find it; perhaps "seed: " and one that is known to find
// it; and then, as in a unified diff, for each place of the product that is changed the path of its file and the lines
// that are kept, go and come. Those that are kept or go must be in the file, in a row, once.
type mistake struct {
	name    string
	foundBy string
	seed    uint64 // that is known to find it; 0 if none is
	changes []change
}

type change struct{ path, old, new string }

// readMistakes reads all of mistakes/.
func readMistakes(t *testing.T) (list []mistake) {
	t.Helper()
	paths, err := filepath.Glob("mistakes/*.diff")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no mistakes: %v", err)
	}
	for _, path := range paths {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := parseMistake(string(p))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		m.name = strings.TrimSuffix(filepath.Base(path), ".diff")
		list = append(list, m)
	}
	return list
}

func parseMistake(text string) (m mistake, err error) {
	var c *change
	for line := range strings.Lines(text) {
		path, begins := strings.CutPrefix(line, "--- ")
		words, found := strings.CutPrefix(line, "found by: ")
		number, known := strings.CutPrefix(line, "seed: ")
		switch {
		case begins:
			m.changes = append(m.changes, change{path: strings.TrimSpace(path)})
			c = &m.changes[len(m.changes)-1]
		case c == nil && found:
			m.foundBy = strings.TrimSpace(words)
		case c == nil && known:
			if m.seed, err = strconv.ParseUint(strings.TrimSpace(number), 10, 64); err != nil {
				return m, err
			}
		case c == nil: // what is wrong
		case line[0] == ' ':
			c.old, c.new = c.old+line[1:], c.new+line[1:]
		case line[0] == '-':
			c.old += line[1:]
		case line[0] == '+':
			c.new += line[1:]
		default:
			return m, fmt.Errorf("a line that is not kept, goes or comes: %q", line)
		}
	}
	if c == nil {
		return m, fmt.Errorf("it changes no file")
	}
	return m, nil
}

// files returns the files as the mistake has them, by their paths.
func (m mistake) files() (map[string]string, error) {
	files := map[string]string{}
	for _, c := range m.changes {
		text, changed := files[c.path]
		if !changed {
			p, err := os.ReadFile(filepath.Join(root, c.path))
			if err != nil {
				return nil, err
			}
			text = string(p)
		}
		if n := strings.Count(text, c.old); n != 1 || c.old == c.new {
			return nil, fmt.Errorf("%s has %d times, and must have once, the lines that the mistake changes (bring it up to date):\n%s", c.path, n, c.old)
		}
		files[c.path] = strings.Replace(text, c.old, c.new, 1)
	}
	return files, nil
}

// overlay writes what go build needs to build the product with the mistake, and returns the path of that.
func (m mistake) overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	files, err := m.files()
	if err != nil {
		t.Fatalf("mistake %s: %v", m.name, err)
	}
	for path, text := range files {
		real, err := filepath.Abs(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		replace[real] = filepath.Join(dir, fmt.Sprint(len(replace), ".go"))
		if err := os.WriteFile(replace[real], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMistakesFit tells at once, where TestBugsAreFound is not run, that a change of the product left a mistake behind.
func TestMistakesFit(t *testing.T) {
	for _, m := range readMistakes(t) {
		if _, err := m.files(); err != nil {
			t.Errorf("mistake %s: %v", m.name, err)
		}
	}
}
