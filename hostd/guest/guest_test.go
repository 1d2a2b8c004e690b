package guest_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/placement"
)

// TestSeesOnlyItsFiles: what a guest may not read is not there for it, neither in a list nor by name or digest.
func TestSeesOnlyItsFiles(t *testing.T) {
	w := newWorld(t)
	secret := w.publish("secret", dbUUID, randomBytes(1000))
	for name, guests := range map[string]string{"a/all": "all", "a/web": "tag:web", "a/none": "none", "a/glob": "db-*", "b/uuid": webUUID} {
		w.publish(name, guests, randomBytes(1000))
	}
	for uuid, want := range map[string]string{webUUID: "[a/all a/web b/uuid]", dbUUID: "[a/all a/glob secret]"} {
		files, err := w.agent(uuid).List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, f := range files {
			names = append(names, f.Name)
		}
		if got := fmt.Sprint(names); got != want {
			t.Errorf("%s sees %s, want %s", uuid, got, want)
		}
	}
	dest := filepath.Join(w.dir, "out")
	var told [2]string
	for i, name := range []string{"secret", "nothing"} {
		_, err := w.agent(webUUID).Pull(t.Context(), name, dest, guestagent.PullOptions{})
		wantCode(t, err, guestlink.CodeNotFound)
		told[i] = string(bytes.ReplaceAll([]byte(err.Error()), []byte(name), []byte("…")))
	}
	if told[0] != told[1] {
		t.Errorf("what there is for others and what there is not at all differ: %q, %q", told[0], told[1])
	}
	_, err := w.agent(webUUID).Pull(t.Context(), "secret", dest, guestagent.PullOptions{ID: secret.ID()})
	wantCode(t, err, guestlink.CodeNotFound)
	_, err = w.agent(webUUID).Pull(t.Context(), "a/all", dest, guestagent.PullOptions{ID: secret.ID()})
	wantCode(t, err, guestlink.CodeNotFound)
	if _, err := os.Stat(dest); err == nil {
		t.Error("something was left")
	}
}

// TestDomainLeaves: the links of a domain that leaves end, and those of one that comes are taken.
func TestDomainLeaves(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", randomBytes(100))
	if _, err := w.agent(webUUID).Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	link := w.session(webUUID)
	var web placement.Domain
	w.setDomains(func(list []placement.Domain) []placement.Domain {
		web = list[0]
		return list[1:]
	})
	<-link.Done()
	wantCode(t, link.Err(), guestlink.CodeGone)
	short := w.agent(webUUID)
	short.Patience = -1
	eventually(t, "nobody listens for a domain that is not here", func() error {
		if _, err := short.Status(t.Context()); !errors.Is(err, guestagent.ErrNoLink) {
			return fmt.Errorf("it is told: %w", err)
		}
		return nil
	})
	w.setDomains(func(list []placement.Domain) []placement.Domain { return append(list, web) })
	if s, err := w.agent(webUUID).Status(t.Context()); err != nil || s.Domain != "web-1" || s.PushPrefix != "guests/"+webUUID+"/" {
		t.Errorf("%+v, %v", s, err)
	}
}
