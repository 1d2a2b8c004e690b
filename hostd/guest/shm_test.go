package guest_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/internal/shmring"
	"github.com/virtswarm/virtswarm/placement"
)

// withMemory gives a domain shared memory, as if it were plugged in.
func (w *world) withMemory(uuid string, size int64) (url string) {
	w.t.Helper()
	path := filepath.Join(w.dir, "virtswarm-"+uuid)
	if err := shmring.Create(path, 1<<20, -1, -1); err != nil && !errors.Is(err, os.ErrExist) {
		w.t.Fatal(err)
	}
	w.setDomains(func(list []placement.Domain) []placement.Domain {
		for i := range list {
			if list[i].UUID == uuid {
				list[i].Shm = size
			}
		}
		return list
	})
	return "shm://" + path
}

// TestSharedMemory: a pull by it goes on over a restart of the daemon, and when the memory goes and comes again.
func TestSharedMemory(t *testing.T) {
	w := newWorld(t)
	p := randomBytes(12 << 20)
	w.publish("big", "all", p)
	agent := w.agent(dbUUID)
	agent.Link = w.withMemory(dbUUID, 1<<20)
	dest := filepath.Join(w.dir, "big")
	steps := []func(){
		func() { w.stop(); w.start() },
		func() { w.withMemory(dbUUID, 0) },
		func() { w.withMemory(dbUUID, 1<<20) },
	}
	at, done := make(chan int64), make(chan error, 1)
	var r guestagent.Pulled
	go func() {
		var err error
		r, err = agent.Pull(t.Context(), "big", dest, guestagent.PullOptions{Progress: func(done, _ int64) {
			select {
			case at <- done:
			default:
			}
		}})
		done <- err
	}()
	for i, step := range steps {
		if i < 2 {
			for n := range at {
				if n > int64(i+1)*2<<20 {
					break
				}
			}
		}
		step()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantFile(t, dest, p)
	if r.Fetched != r.Data {
		t.Errorf("%+v", r)
	}
}

// TestBell: a side that sleeps is woken by the other link.
func TestBell(t *testing.T) {
	w := newWorld(t)
	agent := w.agent(dbUUID)
	w.raw(dbUUID).Close() // it listens
	agent.Link, agent.Bell = w.withMemory(dbUUID, 1<<20), "unix://"+w.socket(dbUUID)
	var all []time.Duration
	if _, err := agent.Ping(t.Context(), 20, 20*time.Millisecond, func(_ int, d time.Duration) { all = append(all, d) }); err != nil {
		t.Fatal(err)
	}
	if w.metric("virtswarm_guest_bells_total") == 0 {
		t.Error("no bell was rung")
	}
	t.Log(all)
}

// TestAttachOnce: what is plugged in already stays, and is an error only if another size is asked for. What counts is
// what the host sees, whatever the caller has heard of the domain.
func TestAttachOnce(t *testing.T) {
	w := newWorld(t)
	w.withMemory(dbUUID, 1<<20)
	heard := placement.Domain{UUID: dbUUID, Name: "db", State: placement.DomainRunning}
	if err := w.server.Attach(t.Context(), heard, 1<<20); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := w.server.Attach(t.Context(), heard, 2<<20); !errors.Is(err, guest.ErrAttached) {
		t.Errorf("another size: %v", err)
	}
	w.withMemory(dbUUID, 0)
	heard.Shm = 1 << 20
	if err := w.server.Attach(t.Context(), heard, 1<<20); err == nil || errors.Is(err, guest.ErrAttached) {
		t.Errorf("none is there, and nobody can plug it in: %v", err)
	}
}
