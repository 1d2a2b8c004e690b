package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

// killEnv names the store that this test binary fills, instead of running tests, until it is killed.
const killEnv = "VIRTSWARM_TEST_KILL_DIR"

const killSize = 600 * testChunk

func TestMain(m *testing.M) {
	if dir := os.Getenv(killEnv); dir != "" {
		if err := fillForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// fillForever writes chunk after chunk and prints the index of each when the store has taken it.
func fillForever(dir string) error {
	s, err := Open(Options{Dir: filepath.Join(dir, "store")})
	if err != nil {
		return err
	}
	src, err := os.Open(filepath.Join(dir, "source"))
	if err != nil {
		return err
	}
	m, err := content.ChunkFile(context.Background(), src, killSize, content.ChunkOptions{ChunkSize: testChunk})
	if err != nil {
		return err
	}
	f, err := s.Create(context.Background(), m)
	if err != nil {
		return err
	}
	buf := make([]byte, testChunk)
	for i := range m.Chunks() {
		if _, err := src.ReadAt(buf, m.Offset(i)); err != nil {
			return err
		}
		if err := f.WriteChunk(i, buf); err != nil {
			return err
		}
		fmt.Println(i)
	}
	select {}
}

// TestKilledProcess kills a real process with SIGKILL while it writes, several times, on one store: every chunk that
// it was told is written is there, and right, when the next one opens it.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	p := random(1, killSize)
	must(t, os.WriteFile(filepath.Join(dir, "source"), p, 0o600))
	for _, after := range []int{1, 50, 600} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		written := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if written++; written == after {
				must(t, cmd.Process.Kill())
			}
		}
		cmd.Wait() // an error, of course: it was killed

		s := open(t, filepath.Join(dir, "store"))
		f, ok := s.Get(manifestOf(t, p).ID())
		if !ok || written < after {
			t.Fatalf("%d chunks written before the kill", written)
		}
		for i := range written {
			got, err := f.ReadChunk(i, nil)
			if err != nil || string(got) != string(part(f, p, i)) {
				t.Fatalf("chunk %d of %d is lost: %v", i, written, err)
			}
		}
		must(t, s.Close())
	}
}
