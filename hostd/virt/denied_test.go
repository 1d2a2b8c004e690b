//go:build libvirt_dlopen

package virt

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

// TestDenied: a libvirt that lets the daemon look but not touch is followed, and a change says what is refused; one
// that does not let it in at all is said to refuse, and is followed once it does.
func TestDenied(t *testing.T) {
	open(t, testURI) // skips without libvirt
	l := newLab(t, 6)
	looks, _ := watch(t, Config{URI: l.uri() + "-ro"}) // libvirt's socket for those who may only look
	untilConnected(t, looks, true)
	l.define("denied", "")
	d := untilState(t, looks, "denied", placement.DomainOff)
	err := looks.SetMetadata(t.Context(), d.UUID, func(m Metadata) (Metadata, error) {
		m.Tags = []string{"web"}
		return m, nil
	})
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "run as root") {
		t.Errorf("a change: %v", err)
	}
	l.virsh("start", "denied", "--paused")
	untilState(t, looks, "denied", placement.DomainPaused)
	l.virsh("destroy", "denied")

	l.stop(syscall.SIGTERM)
	conf := l.path("etc/libvirt/libvirtd.conf")
	text, err := os.ReadFile(conf)
	must(t, err)
	must(t, os.WriteFile(conf, []byte(strings.Replace(string(text), `auth_unix_rw="none"`, `auth_unix_rw="sasl"`, 1)), 0o644)) // and the watcher has no name or password
	l.start()
	enters, _ := watch(t, Config{URI: l.uri()})
	late := time.After(patience)
	for again := time.Tick(10 * time.Millisecond); ; {
		err := enters.SetMetadata(t.Context(), d.UUID, func(m Metadata) (Metadata, error) { return m, nil })
		if errors.Is(err, ErrDenied) {
			break
		}
		select {
		case <-again:
		case <-late:
			t.Fatalf("no refusal, but %v", err)
		}
	}
	if enters.Connected() {
		t.Error("it is connected")
	}
	l.stop(syscall.SIGTERM)
	must(t, os.WriteFile(conf, text, 0o644))
	l.start()
	untilState(t, enters, "denied", placement.DomainOff)
}
