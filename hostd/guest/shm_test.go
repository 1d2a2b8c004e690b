package guest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
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

// vm runs a process that looks like a QEMU of a VM and has a file in use, until end is called.
func (w *world) vm(uuid, path string) (end func()) {
	w.t.Helper()
	file, err := os.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("sh", "-c", "read end", "qemu-system-x86_64", "-uuid", uuid)
	cmd.ExtraFiles = []*os.File{file}
	in, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		in.Close()
		cmd.Wait() // read fails at the end of its input
	})
	w.t.Cleanup(end)
	return end
}

// TestClone: a VM that has the memory of another is not taken for it, nor is the other as long as nobody can tell them
// apart; then the honest one is served again.
func TestClone(t *testing.T) {
	w := newWorld(t)
	w.publish("of db", "all", randomBytes(1<<20))
	var web placement.Domain
	w.setDomains(func(list []placement.Domain) []placement.Domain { // the clone comes later
		web = list[0]
		return list[1:]
	})
	comes := func() {
		w.setDomains(func(list []placement.Domain) []placement.Domain { return append(list, web) })
	}
	goes := func() {
		w.setDomains(func(list []placement.Domain) []placement.Domain { return list[:1] })
	}
	agent := w.agent(dbUUID)
	agent.Link = w.withMemory(dbUUID, 1<<20)
	path := filepath.Join(w.dir, "virtswarm-"+dbUUID)
	original := w.vm(dbUUID, path)
	served := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		files, err := agent.List(ctx, "")
		if err == nil && len(files) != 1 {
			err = fmt.Errorf("%d files", len(files))
		}
		return err
	}
	if err := served(); err != nil {
		t.Fatalf("the original alone: %v", err)
	}
	clone := w.vm(webUUID, path)
	comes()
	eventually(t, "both are doubted", func() error {
		if d := w.server.Doubts(); len(d) != 1 || d[0].What != "shared memory" || d[0].Domains[0] != "db-1" {
			return fmt.Errorf("doubts: %v", d)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if files, err := agent.List(ctx, ""); err == nil {
		t.Errorf("one of two is served: %v", files)
	}
	clone()
	goes()
	eventually(t, "the original is served again", served)
	if d := w.server.Doubts(); len(d) != 0 {
		t.Errorf("doubts: %v", d)
	}

	// One that has it alone is the clone all the same: the original is off.
	original()
	w.vm(webUUID, path)
	comes()
	eventually(t, "the clone is doubted", func() error {
		if len(w.server.Doubts()) != 1 {
			return errors.New("it is not")
		}
		return nil
	})
}
