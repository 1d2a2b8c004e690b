package guest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/internal/content"
)

func TestPull(t *testing.T) {
	w := newWorld(t)
	for size := range map[int]bool{0: true, 1: true, content.MinChunkSize: true, 3<<20 + 17: true} {
		p := randomBytes(size)
		if size > 1<<20 {
			p = sparse(size)
		}
		name := fmt.Sprint("file-", size)
		f := w.publish(name, "all", p)
		dest := filepath.Join(w.dir, name)
		r, err := w.agent(dbUUID).Pull(t.Context(), name, dest, guestagent.PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wantFile(t, dest, p)
		if m := f.Manifest(); r.Fetched != m.DataBytes() || r.Size != int64(size) || r.ID != m.ID() {
			t.Errorf("%d bytes: %+v", size, r)
		}
		var out bytes.Buffer
		if _, err := w.agent(dbUUID).PullTo(t.Context(), name, &out, guestagent.PullOptions{}); err != nil || !bytes.Equal(out.Bytes(), p) {
			t.Errorf("%d bytes to a pipe: %d, %v", size, out.Len(), err)
		}
		if _, err := w.agent(dbUUID).Pull(t.Context(), name, dest, guestagent.PullOptions{}); !errors.Is(err, guestagent.ErrExists) {
			t.Errorf("onto a file: %v", err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(w.dir, ".*.part"))
	if len(left) > 0 {
		t.Errorf("parts are left: %v", left)
	}
}

// cutter passes a unix socket on, and cuts each connection after some bytes.
func cutter(t *testing.T, to string, after func(n int) int64) (socket string, links *atomic.Int64) {
	t.Helper()
	socket, links = filepath.Join(t.TempDir(), "cut"), &atomic.Int64{}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n := int(links.Add(1))
			go func() {
				defer c.Close()
				host, err := net.Dial("unix", to)
				if err != nil {
					return
				}
				defer host.Close()
				go io.Copy(host, c)
				io.CopyN(c, host, after(n))
			}()
		}
	}()
	return socket, links
}

// TestPullGoesOn: a link that breaks again and again costs what was under way, and no verified chunk is fetched twice.
func TestPullGoesOn(t *testing.T) {
	w := newWorld(t)
	p := sparse(6 << 20)
	data := w.publish("big", "all", p).Manifest().DataBytes()
	w.raw(dbUUID)
	socket, links := cutter(t, w.socket(dbUUID), func(int) int64 { return 1 << 20 })
	agent := w.agent(dbUUID)
	agent.Link = "unix://" + socket
	dest := filepath.Join(w.dir, "big")
	r, err := agent.Pull(t.Context(), "big", dest, guestagent.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dest, p)
	if r.Links < 5 || int(links.Load()) != r.Links || r.Fetched != data {
		t.Errorf("%+v over %d links, want every byte of %d once", r, links.Load(), data)
	}
	var out bytes.Buffer
	if r, err = agent.PullTo(t.Context(), "big", &out, guestagent.PullOptions{}); err != nil || !bytes.Equal(out.Bytes(), p) || r.Links < 5 {
		t.Errorf("to a pipe: %d bytes, %+v, %v", out.Len(), r, err)
	}
}

// TestPullResumes: another process goes on where one was interrupted, and trusts nothing that it finds.
func TestPullResumes(t *testing.T) {
	w := newWorld(t)
	p := sparse(6 << 20)
	f := w.publish("big", "all", p)
	w.raw(dbUUID)
	socket, _ := cutter(t, w.socket(dbUUID), func(int) int64 { return 3 << 20 })
	once := w.agent(dbUUID)
	once.Link, once.Patience = "unix://"+socket, -1
	dest := filepath.Join(w.dir, "big")
	first, err := once.Pull(t.Context(), "big", dest, guestagent.PullOptions{})
	if err == nil || first.Fetched == 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	parts, _ := filepath.Glob(filepath.Join(w.dir, ".big.*.part"))
	if len(parts) != 1 {
		t.Fatalf("parts: %v", parts)
	}
	part, err := os.OpenFile(parts[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	// A chunk that was damaged since, and a hole that somebody filled.
	for _, at := range []int64{f.Manifest().Offset(5), 0} {
		if _, err := part.WriteAt([]byte("damage"), at); err != nil {
			t.Fatal(err)
		}
	}
	part.Close()
	second, err := w.agent(dbUUID).Pull(t.Context(), "big", dest, guestagent.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dest, p)
	if second.Resumed != first.Fetched-int64(f.Manifest().ChunkLen(5)) || second.Resumed+second.Fetched != second.Data {
		t.Errorf("first %+v, second %+v", first, second)
	}
}

// TestDaemonRestarts: a pull goes on over a restart of the host's daemon.
func TestDaemonRestarts(t *testing.T) {
	w := newWorld(t)
	p := randomBytes(8 << 20)
	w.publish("big", "all", p)
	dest := filepath.Join(w.dir, "big")
	restarted := make(chan struct{})
	var once atomic.Bool
	r, err := w.agent(dbUUID).Pull(t.Context(), "big", dest, guestagent.PullOptions{Progress: func(done, _ int64) {
		if done > 2<<20 && once.CompareAndSwap(false, true) {
			w.stop()
			w.start()
			close(restarted)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	<-restarted
	wantFile(t, dest, p)
	if r.Links != 2 || r.Fetched != r.Data {
		t.Errorf("%+v", r)
	}
}

// TestPullOverwritesNothing: what comes to the destination during a pull stays, and what was pulled is kept for another
// one.
func TestPullOverwritesNothing(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", randomBytes(1<<20))
	dest := filepath.Join(w.dir, "file")
	_, err := w.agent(dbUUID).Pull(t.Context(), "file", dest, guestagent.PullOptions{Progress: func(_, _ int64) {
		if err := os.WriteFile(dest, []byte("mine"), 0o600); err != nil {
			t.Error(err)
		}
	}})
	if !errors.Is(err, guestagent.ErrExists) {
		t.Errorf("error %v", err)
	}
	wantFile(t, dest, []byte("mine"))
	r, err := w.agent(dbUUID).Pull(t.Context(), "file", dest, guestagent.PullOptions{Replace: true})
	if err != nil || r.Resumed != r.Data {
		t.Errorf("%+v, %v", r, err)
	}
}
