package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

func sampleNote() Note {
	return Note{Cluster: "5f1c", Seen: 412, Names: []NotedName{
		{Name: "images/größte \"Datei\"", Replicas: 2, Guests: "tag:web", Publisher: "6f1d", At: 1770000000, Index: 400},
		{Name: "images/x", Guests: "none"},
	}}
}

// noted opens a store of one file that has a note, and returns the note's path.
func noted(t *testing.T, dir string) (s *Store, f *File, path string) {
	t.Helper()
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err := source.WriteString("some bytes"); err != nil {
		t.Fatal(err)
	}
	f, err = s.Import(t.Context(), source, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetNote(sampleNote()); err != nil {
		t.Fatal(err)
	}
	return s, f, noteIn(f.dir)
}

// TestNoteAndStampSurvive: what was noted is there after a start, and is not written again when nothing changed.
func TestNoteAndStampSurvive(t *testing.T) {
	dir := t.TempDir()
	s, f, path := noted(t, dir)
	if err := s.SetCluster("5f1c"); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	later := sampleNote()
	later.Seen++
	if err := f.SetNote(later); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("written again although nothing changed: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.SetNote(Note{Cluster: "late"}); !errors.Is(err, ErrClosed) {
		t.Errorf("a note after the end: %v", err)
	}
	s, err = Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	again, _ := s.Get(f.ID())
	if s.Cluster() != "5f1c" || !again.Note().Equal(sampleNote()) || again.Note().Seen != 412 {
		t.Errorf("stamp %q, note %+v", s.Cluster(), again.Note())
	}
	if err := s.Remove(f.ID()); err != nil {
		t.Fatal(err)
	}
	if err := again.SetNote(Note{Cluster: "late"}); !errors.Is(err, ErrRemoved) {
		t.Errorf("a note after the removal: %v", err)
	}
}

// TestDamagedNoteIsIgnored: no damage to a hint keeps the store from opening, nor a file from being read.
func TestDamagedNoteIsIgnored(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"flipped":   func(path string) error { flip(t, path, 20); return nil },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"torn":      func(path string) error { return os.Truncate(path, 50) },
		"too large": func(path string) error { return os.Truncate(path, maxNote+1) },
		"a directory": func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, f, path := noted(t, dir)
			if err := errors.Join(s.SetCluster("5f1c"), s.Close(), damage(path), os.WriteFile(filepath.Join(dir, "cluster"), []byte("nonsense"), 0o600)); err != nil {
				t.Fatal(err)
			}
			s, err := Open(Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			again, ok := s.Get(f.ID())
			if !ok || !again.Complete() || !again.Note().Equal(Note{}) || s.Cluster() != "" {
				t.Errorf("there %v, stamp %q, note %+v", ok, s.Cluster(), again.Note())
			}
			if err := s.SetCluster("another"); err != nil || s.Cluster() != "another" {
				t.Errorf("stamped anew: %q, %v", s.Cluster(), err)
			}
		})
	}
}

func TestNoteLimits(t *testing.T) {
	s, f, path := noted(t, t.TempDir())
	defer s.Close()
	if err := f.SetNote(Note{Cluster: strings.Repeat("x", maxNoteText+1)}); err == nil {
		t.Error("took a text that is too long")
	}
	many := Note{}
	for i := range 2 * MaxNoteNames {
		many.Names = append(many.Names, NotedName{Name: fmt.Sprint(i) + strings.Repeat("\"", maxNoteText-8), Guests: strings.Repeat("\\", maxNoteText)})
	}
	if err := f.SetNote(many); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() > maxNote || len(f.Note().Names) != MaxNoteNames {
		t.Errorf("%d names, %v", len(f.Note().Names), err)
	}
}

func FuzzDecodeNote(f *testing.F) {
	id := content.Sum([]byte("id"))
	for _, n := range []Note{{}, sampleNote(), {Cluster: "c", StraySince: 1}} {
		p, err := encodeNote(id, n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
		line, _, _ := strings.Cut(string(p), "\n")
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		n, err := decodeNote(id, p)
		if err != nil {
			if !errors.Is(err, errNote) {
				t.Fatalf("not an errNote: %v", err)
			}
			// Most inputs fail at the digest; see what is behind it.
			line, _, _ := strings.Cut(string(p), "\n")
			if n, err = decodeNote(id, fmt.Appendf(nil, "%s\n%s\n", line, content.Sum([]byte(line)))); err != nil {
				return
			}
		}
		if !n.sound() {
			t.Fatalf("out of bounds: %+v", n)
		}
		again, err := encodeNote(id, n)
		if err != nil {
			return // its texts are longer when they are escaped
		}
		if back, err := decodeNote(id, again); err != nil || !back.Equal(n) || back.Seen != n.Seen {
			t.Fatalf("%+v becomes %+v, %v", n, back, err)
		}
	})
}
