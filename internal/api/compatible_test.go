package api

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

var update = flag.Bool("update", false, "note what is new in the API in testdata/api.txt")

// listing is the API of all versions so far, a line each field, value and call: what older clients and programs that
// read --json go by. Lines are added, and never changed or removed.
const listing = "testdata/api.txt"

// TestNoChangeBreaksOlderClients refuses to rename, renumber, retype or remove what the API has.
func TestNoChangeBreaksOlderClients(t *testing.T) {
	text, err := os.ReadFile(listing)
	if err != nil {
		t.Fatal(err)
	}
	old, now := strings.Split(strings.TrimSpace(string(text)), "\n"), describeAPI()
	for _, line := range old {
		if !slices.Contains(now, line) {
			t.Errorf("the API has no more: %s\n\tan older client relies on it; add another instead, and keep this", line)
		}
	}
	var added []string
	for _, line := range now {
		if !slices.Contains(old, line) {
			added = append(added, line)
		}
	}
	if len(added) == 0 || t.Failed() {
		return
	}
	if !*update {
		t.Fatalf("new in the API: run 'go test ./internal/api -update' once they are as they are to stay\n%s", strings.Join(added, "\n"))
	}
	all := slices.Sorted(slices.Values(append(old, added...)))
	if err := os.WriteFile(listing, []byte(strings.TrimSpace(strings.Join(all, "\n"))+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestNumbersAreWhatTheySeem holds the conventions that JSON goes by: see types.proto.
func TestNumbersAreWhatTheySeem(t *testing.T) {
	for _, line := range describeAPI() {
		name, rest, _ := strings.Cut(line, " = ")
		isTime := strings.HasSuffix(name, "_at") || strings.HasSuffix(name, ".at") || strings.HasSuffix(name, "since") || strings.HasSuffix(name, "until")
		if isInt := strings.HasSuffix(rest, " int64"); isTime != isInt {
			t.Errorf("%s: an int64 is a time, and only times are", line)
		}
		for _, kind := range []string{" int32", " sint32", " sint64", " fixed32", " fixed64", " float"} {
			if strings.HasSuffix(rest, kind) {
				t.Errorf("%s: numbers are uint32, uint64 or double", line)
			}
		}
	}
}

// describeAPI gives the listing of the API as it is.
func describeAPI() (lines []string) {
	for _, file := range []protoreflect.FileDescriptor{
		v1.File_virtswarm_v1_types_proto, v1.File_virtswarm_v1_control_proto, v1.File_virtswarm_v1_guests_proto,
		v1.File_virtswarm_v1_cluster_proto, v1.File_virtswarm_v1_join_proto,
	} {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				stream := ""
				if m.IsStreamingServer() {
					stream = "stream "
				}
				lines = append(lines, fmt.Sprintf("call %s.%s(%s) %s%s", s.Name(), m.Name(), m.Input().Name(), stream, m.Output().Name()))
			}
		}
		for i := range file.Enums().Len() {
			e := file.Enums().Get(i)
			for j := range e.Values().Len() {
				lines = append(lines, fmt.Sprintf("value %s.%s = %d", e.Name(), e.Values().Get(j).Name(), e.Values().Get(j).Number()))
			}
		}
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			for j := range m.Fields().Len() {
				lines = append(lines, describeField(m, m.Fields().Get(j)))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func describeField(m protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	switch {
	case f.IsMap():
		kind = fmt.Sprintf("map<%s, %s>", f.MapKey().Kind(), f.MapValue().Kind())
	case f.Message() != nil:
		kind = string(f.Message().Name())
	case f.Enum() != nil:
		kind = string(f.Enum().Name())
	}
	if !f.IsMap() && f.Cardinality() == protoreflect.Repeated {
		kind = "repeated " + kind
	}
	if f.HasOptionalKeyword() {
		kind = "optional " + kind
	}
	return fmt.Sprintf("field %s.%s = %d %s", m.Name(), f.Name(), f.Number(), kind)
}
