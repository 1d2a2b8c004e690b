package qmp

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func silent(want bool) func([]Guest) bool {
	return func(g []Guest) bool { return len(g) == 1 && g[0].Silent == want }
}

// TestSilentQEMU: a process that stands still is in the picture as it was, and leaves it when it ends, also if its socket
// was removed.
func TestSilentQEMU(t *testing.T) {
	limits := quick()
	limits.reply = time.Second
	w, log := watch(t, limits, Config{Paths: []string{t.TempDir()}})
	q := start(t, filepath.Join(w.paths[0], "web.qmp"), "-uuid", someUUID, "-name", "web")
	before := await(t, w, "one guest", silent(false))[0]
	for range 2 {
		if err := q.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		got := await(t, w, "a silent guest", silent(true))[0]
		if got.Silent = false; !got.Equal(before) {
			t.Errorf("while it is silent it is %+v, was %+v", got, before)
		}
		if _, err := w.session(someUUID); err != ErrSilent {
			t.Errorf("a session with it: %v", err)
		}
		if err := q.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		await(t, w, "a guest that answers again", silent(false))
	}
	log.await(t, "does not answer, and its process lives")

	if err := q.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, w, "a silent guest", silent(true))
	if err := syscall.Unlink(q.monitor); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * limits.rescan) // nothing is to happen
	if !silent(true)(w.Guests()) {
		t.Errorf("without its socket the guest is gone although its process lives: %+v", w.Guests())
	}
	q.kill()
	await(t, w, "no guest", count(0))
}

// TestUnclearSocket: a daemon that starts while another client has a monitor does not know who is there, and says so.
func TestUnclearSocket(t *testing.T) {
	q := start(t, filepath.Join(t.TempDir(), "a.qmp"), "-uuid", someUUID)
	first, err := open(t.Context(), q.monitor, &usual, func() {})
	if err != nil {
		t.Fatal(err)
	}
	w, log := watch(t, quick(), Config{Paths: []string{q.monitor, filepath.Join(t.TempDir(), "none.qmp")}})
	log.await(t, "another client")
	if w.Settled() {
		t.Error("it is settled who is there")
	}
	first.close()
	await(t, w, "one guest", silent(false))
	if !w.Settled() {
		t.Error("it is not settled who is there")
	}
	q.kill()
	await(t, w, "no guest", count(0))
	if !w.Settled() {
		t.Error("a dead socket leaves it open who is there")
	}
}
