package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// TestManualShowsJSON compares the examples of docs/operations.md with the API: together those of a verb must show
// every key that its message has, and no other.
func TestManualShowsJSON(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	messages := map[string]proto.Message{
		"error": &v1.Failure{}, "publish": &v1.PublishProgress{}, "pull": &v1.PullProgress{}, "distribute": &v1.DistributeProgress{},
		"ls": &v1.ListResponse{}, "show": &v1.ShowResponse{}, "rm": &v1.RemoveResponse{}, "hosts": &v1.HostsResponse{},
		"status": &v1.StatusResponse{}, "verify": &v1.CheckProgress{}, "token": &v1.CreateTokenResponse{}, "leave": &v1.LeaveProgress{},
		"drain": &v1.DrainProgress{}, "undrain": &v1.UndrainResponse{}, "unpin": &v1.UnpinResponse{}, "strays": &v1.StraysResponse{},
		"adopt": &v1.AdoptResponse{}, "cataloguesave": &v1.SavedCatalogue{}, "cataloguerestore": &v1.RestoreCatalogueResponse{},
		"hostshow": &v1.ShowHostResponse{}, "hostset": &v1.SetHostResponse{}, "health": &v1.HealthResponse{}, "setup": &v1.InitResponse{},
		"ca": &v1.AuthoritiesResponse{}, "carotate": &v1.RotateAuthorityProgress{},
		"export": &v1.CopyProgress{},
	}
	for _, block := range regexp.MustCompile("(?ms)^```json ([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		verb, example := block[1], block[2]
		m, ok := messages[verb]
		if !ok {
			t.Errorf("the manual shows %s, which has no message (or is shown twice)", verb)
			continue
		}
		delete(messages, verb)
		shown, want := map[string]bool{}, map[string]bool{}
		for dec := json.NewDecoder(strings.NewReader(example)); dec.More(); {
			var raw any
			if err := dec.Decode(&raw); err != nil {
				t.Fatalf("%s: decode the example: %v", verb, err)
			}
			keysOf(raw, "", shown)
		}
		keysOfMessage(m.ProtoReflect().Descriptor(), "", want)
		for key := range want {
			if !shown[key] {
				t.Errorf("%s: the manual does not show %s", verb, key)
			}
		}
		for key := range shown {
			if !want[key] && !strings.Contains(key, ".labels.") {
				t.Errorf("%s: the manual shows %s, which is not there", verb, key)
			}
		}
	}
	for verb := range messages {
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

// keysOfMessage collects the paths of all keys that a message has. Maps have keys of the operator's choice.
func keysOfMessage(m protoreflect.MessageDescriptor, path string, keys map[string]bool) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		name := path + "." + string(f.Name())
		keys[name] = true
		if f.Message() != nil && !f.IsMap() {
			keysOfMessage(f.Message(), name, keys)
		}
	}
}
