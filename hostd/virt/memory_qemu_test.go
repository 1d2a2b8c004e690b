//go:build libvirt_dlopen

package virt

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/placement"
)

// TestMemoryMoves saves, restores and migrates a domain with memory plugged in: what is in it goes along, and nobody
// takes the files away. It shows what PlugMemory promises, and what whoever makes and removes the files has to reckon
// with.
func TestMemoryMoves(t *testing.T) {
	open(t, testURI)
	from, to := newLab(t, 4), newLab(t, 5)
	a, _ := watch(t, Config{URI: from.uri()})
	b, _ := watch(t, Config{URI: to.uri()})
	untilConnected(t, a, true)
	untilConnected(t, b, true)
	from.define("mem", "")
	from.virsh("start", "mem")
	uuid := untilState(t, a, "mem", placement.DomainRunning).UUID
	path := filepath.Join(MemoryDir, MemoryPrefix+uuid)
	here, there := from.path(path), to.path(path)
	const size = 1 << 20
	plugged := func(m map[string]placement.Domain) bool {
		return m["mem"].State == placement.DomainRunning && m["mem"].Shm == size
	}
	must(t, a.PlugMemory(t.Context(), uuid, path, size))
	until(t, a, "the memory", plugged)
	word := bytes.Repeat([]byte("word"), 1000)
	must(t, write(here, word))

	// Without the file it comes back from what was saved.
	saved := from.path("saved")
	from.virsh("save", "mem", saved)
	untilState(t, a, "mem", placement.DomainOff)
	must(t, os.Remove(here))
	from.virsh("restore", saved)
	until(t, a, "the memory again", plugged)
	holds(t, "restored", here, word)

	// The destination makes the file.
	must(t, migrate(from, to, "mem"))
	until(t, b, "the memory where it went", plugged)
	holds(t, "where it went", there, word)
	holds(t, "where it came from", here, word)

	// Back home its old file is in the way if it is too small; else what is in it is lost.
	must(t, os.Truncate(here, size/2))
	if err := migrate(to, from, "mem"); err == nil {
		t.Fatal("it went to a file that is too small")
	}
	until(t, b, "it to stay", plugged)
	must(t, os.Truncate(here, size))
	must(t, os.Chmod(here, 0o600))
	must(t, write(here, []byte("of old")))
	must(t, migrate(to, from, "mem"))
	until(t, a, "the memory at home", plugged)
	holds(t, "at home", here, word)
	if info, err := os.Stat(here); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its file at home: %v, %v", info, err)
	}
	from.virsh("destroy", "mem")
	from.virsh("undefine", "mem")
	untilState(t, a, "mem", "")
	holds(t, "after its end", here, word)
}

func migrate(from, to *lab, domain string) error {
	out, err := exec.Command("virsh", "-q", "-c", from.uri(), "migrate", "--live", "--p2p", domain,
		"qemu+tcp://127.0.0.1:"+strconv.Itoa(to.port)+"/system", "tcp://127.0.0.1").CombinedOutput()
	if err != nil {
		from.t.Logf("virsh migrate: %s", strings.TrimSpace(string(out)))
	}
	return err
}

// write overwrites the beginning of a file.
func write(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// holds checks what a file begins with.
func holds(t *testing.T, when, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(got, want) {
		t.Errorf("%s: %.20q, %v", when, got, err)
	}
}
