package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
)

// TestUnplugHearsTheGuest: of the events that may come while a guest makes up its mind, those count that are of the
// device, and what QEMU's tree says then. A backend that is in use all the same is reported.
func TestUnplugHearsTheGuest(t *testing.T) {
	const (
		other   = `{"event": "DEVICE_DELETED", "data": {"device": "shm1", "path": "/machine/peripheral/shm1"}}` + "\n"
		unnamed = `{"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/shm0/x"}}` + "\n"
		deleted = `{"event": "DEVICE_DELETED", "data": {"device": "shm0", "path": "/machine/peripheral/shm0"}}` + "\n"
		refused = `{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": "shm0", "path": "/machine/peripheral/shm0"}}` + "\n"
		there   = `[{"name": "shm0", "type": "child<ivshmem-plain>"}]`
		left    = `[{"name": "shm0-backend-01234567", "type": "child<memory-backend-file>"}, {"name": "shm0-backend", "type": "x"}]`
	)
	for what, c := range map[string]struct {
		first   string   // events after device_del
		tree    []string // what is there when it is asked,
		then    string   // and events after each time
		objects string
		want    error
	}{
		"gone":           {other + unnamed + deleted, []string{`[]`}, "", `[]`, nil},
		"gone at last":   {deleted, []string{there, there, `[]`}, deleted, `[]`, nil},
		"kept":           {other + refused, nil, "", `[]`, ErrKept},
		"backend in use": {deleted, []string{`[]`}, "", left, ErrRefused},
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			serve(t, path, func(conn net.Conn) {
				ready(conn)
				dec := json.NewDecoder(conn)
				for {
					var cmd struct {
						Execute   string
						Arguments struct{ Path, ID string }
						ID        int
					}
					if dec.Decode(&cmd) != nil {
						return
					}
					reply, after := `"error": {"class": "GenericError", "desc": "in use"}`, ""
					switch cmd.Execute + cmd.Arguments.Path {
					case "device_del":
						reply, after = `"return": {}`, c.first
					case "qom-list" + peripheral:
						reply, after = `"return": `+c.tree[0], c.then
						c.tree = c.tree[1:]
					case "qom-list" + objects:
						reply = `"return": ` + c.objects
					}
					fmt.Fprintf(conn, "{%s, \"id\": %d}\n%s", reply, cmd.ID, after)
				}
			})
			s, err := open(t.Context(), path, &usual, func() {})
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if err := s.unplug(t.Context(), "shm0"); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}
