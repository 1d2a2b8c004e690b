package main

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestManualShowsJSON compares the examples of docs/operations.md with the shapes: each example must decode, and
// together those of a verb must show every key.
func TestManualShowsJSON(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	shapes := map[string]any{
		"error": errorShape{}, "publish": publishShape{}, "pull": pullShape{}, "distribute": distributeShape{}, "ls": lsShape{},
		"show": showShape{}, "rm": rmShape{}, "hosts": hostsShape{}, "status": statusShape{}, "verify": checkShape{},
		"token": tokenShape{}, "leave": leaveShape{}, "drain": drainShape{}, "undrain": undrainShape{}, "unpin": unpinShape{},
		"strays": straysShape{}, "adopt": adoptShape{}, "cataloguesave": saveShape{}, "cataloguerestore": restoreShape{},
		"hostshow": showHostShape{}, "hostset": setHostShape{}, "health": healthShape{}, "setup": setupShape{},
	}
	for _, block := range regexp.MustCompile("(?ms)^```json ([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		verb, example := block[1], block[2]
		shape, ok := shapes[verb]
		if !ok {
			t.Errorf("the manual shows %s, which has no shape (or is shown twice)", verb)
			continue
		}
		delete(shapes, verb)
		shown := make(map[string]bool)
		dec := json.NewDecoder(strings.NewReader(example))
		dec.DisallowUnknownFields()
		for dec.More() {
			v := reflect.New(reflect.TypeOf(shape))
			if err := dec.Decode(v.Interface()); err != nil {
				t.Errorf("%s: decode the example: %v", verb, err)
				break
			}
		}
		var raw any
		for dec := json.NewDecoder(strings.NewReader(example)); dec.More(); {
			if err := dec.Decode(&raw); err != nil {
				break // told above
			}
			keysOf(raw, "", shown)
		}
		want := make(map[string]bool)
		keysOfType(reflect.TypeOf(shape), "", want)
		for key := range want {
			if !shown[key] {
				t.Errorf("%s: the manual does not show %s", verb, key)
			}
		}
	}
	for verb := range shapes {
		t.Errorf("the manual does not show %s", verb)
	}
}

// keysOf collects the paths of all keys in decoded JSON.
func keysOf(v any, path string, keys map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			keysOf(e, path, keys)
		}
	case map[string]any:
		for k, e := range v {
			keys[path+"."+k] = true
			keysOf(e, path+"."+k, keys)
		}
	}
}

// keysOfType collects the paths of all keys that a shape can have. Maps have keys of the operator's choice.
func keysOfType(t reflect.Type, path string, keys map[string]bool) {
	switch {
	case t.Kind() == reflect.Pointer, t.Kind() == reflect.Slice:
		keysOfType(t.Elem(), path, keys)
	case t.Kind() == reflect.Struct && t != reflect.TypeFor[time.Time]():
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			keys[path+"."+name] = true
			keysOfType(f.Type, path+"."+name, keys)
		}
	}
}

func TestListIsNeverNull(t *testing.T) {
	got, err := json.Marshal(list([]string(nil), func(s string) string { return s }))
	if err != nil || string(got) != "[]" {
		t.Errorf("got %s, %v, want []", got, err)
	}
	if got := list([]int{1, 2}, func(n int) int { return -n }); !slices.Equal(got, []int{-1, -2}) {
		t.Errorf("got %v", got)
	}
}
