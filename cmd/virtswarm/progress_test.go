package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStep(t *testing.T) {
	tests := []struct {
		s    step
		want string
	}{
		{step{label: "hashing", done: 1 << 20, total: 4 << 20}, "hashing 1.0 MiB of 4.0 MiB"},
		{
			step{label: "fetching", done: 1 << 30, total: 4 << 30, rate: 512 << 20, note: "3 sources"},
			"fetching 1.0 GiB of 4.0 GiB, 512 MiB/s, 3 sources, 6s left",
		},
		{step{label: "fetching", done: 4 << 30, total: 4 << 30, rate: 512 << 20}, "fetching 4.0 GiB of 4.0 GiB, 512 MiB/s"},
		{step{label: "moving", unit: "shard", done: 1, total: 2}, "moving 1 of 2 shards"},
	}
	for _, tt := range tests {
		if got := tt.s.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// TestBarOnTerminalOnly runs the same verb with standard error on a terminal and on a pipe.
func TestBarOnTerminalOnly(t *testing.T) {
	t.Parallel()
	c, err := newCluster()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.form(2); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "image.raw")
	if err := os.WriteFile(source, []byte("hello, swarm!\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	publish := func(stderr *os.File, args ...string) {
		t.Helper()
		var stdout bytes.Buffer
		args = append([]string{"--socket", c.socket("alpha"), "publish", source}, args...)
		if code := run(t.Context(), args, &stdout, stderr); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if strings.ContainsAny(stdout.String(), "\r\x1b") {
			t.Errorf("standard output has traces of a bar: %q", &stdout)
		}
	}
	t.Run("terminal", func(t *testing.T) {
		if err := c.stall("beta"); err != nil { // the second copy waits until the screen tells of it
			t.Fatal(err)
		}
		defer c.resume()
		screen := read(t, func(w *os.File) { publish(w) }, openPTY, func(screen string) {
			if strings.Contains(screen, "copies 1 of 2") {
				c.resume()
			}
		})
		if !strings.Contains(screen, "hashing 14 B of 14 B") || !strings.Contains(screen, "replicating 14 B of 28 B, copies 1 of 2") {
			t.Errorf("drew %q", screen)
		}
	})
	ignore := func(string) {}
	t.Run("terminal with json", func(t *testing.T) {
		if screen := read(t, func(w *os.File) { publish(w, "--json") }, openPTY, ignore); screen != "" {
			t.Errorf("drew %q", screen)
		}
	})
	t.Run("pipe", func(t *testing.T) {
		if screen := read(t, func(w *os.File) { publish(w) }, os.Pipe, ignore); screen != "" {
			t.Errorf("drew %q", screen)
		}
	})
}

// read returns all that f writes to the second file of a pair, and tells look what there is so far.
func read(t *testing.T, f func(*os.File), open func() (r, w *os.File, err error), look func(string)) string {
	t.Helper()
	r, w, err := open()
	if err != nil {
		t.Skipf("no terminal to be had here: %v", err)
	}
	defer r.Close()
	text := make(chan string)
	go func() {
		var all []byte
		p := make([]byte, 4096)
		for {
			n, err := r.Read(p)
			all = append(all, p[:n]...)
			look(string(all))
			if err != nil { // a terminal ends with EIO
				break
			}
		}
		text <- string(all)
	}()
	f(w)
	w.Close()
	return <-text
}

// openPTY returns both ends of a new pseudo-terminal.
func openPTY() (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}); err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}
