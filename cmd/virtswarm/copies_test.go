package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestListSurvivesACrash: a line that was cut off at any byte costs that line alone, and the next is readable.
func TestListSurvivesACrash(t *testing.T) {
	first := listed{Name: "images/größe \" \n", ID: "b3:1", Size: 1, ChunkSize: 65536, Guests: "build-*", Path: "images/x"}
	second := listed{Name: "b", ID: "b3:2", Path: "b"}
	whole := t.TempDir()
	for _, l := range []listed{first, second} {
		if err := appendList(whole, l); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(whole, listName))
	if err != nil {
		t.Fatal(err)
	}
	newer := listed{Name: "b", ID: "b3:3", Path: "b"}
	for n := range len(text) + 1 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, listName), text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := appendList(dir, newer); err != nil {
			t.Fatal(err)
		}
		got, err := readList(dir)
		if err != nil || !slices.Contains(got, newer) || slices.Contains(got, second) {
			t.Errorf("cut at %d: %v, %v", n, got, err)
		}
	}
	if got, err := readList(whole); err != nil || !slices.Equal(got, []listed{first, second}) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := readList(t.TempDir()); err != nil || got != nil {
		t.Errorf("without a list: %v, %v", got, err)
	}
}

func TestOddNames(t *testing.T) {
	for name, odd := range map[string]bool{
		"images/x": false, ".virtswarm": false, ".virtswarm-list": true, ".virtswarm-names/x": true, "a/.virtswarm-x": false,
		"a/" + string(make([]byte, 255)): false, "a/" + string(make([]byte, 256)) + "/b": true,
	} {
		if isOdd(name) != odd {
			t.Errorf("%.40q: odd %v", name, !odd)
		}
	}
	if oddPath("a") == oddPath("b") || !isOdd(oddPath("a")) {
		t.Error("two names have one path, or a path that is a name")
	}
}
