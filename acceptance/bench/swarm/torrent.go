package swarm

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

const (
	// torrentPort is where BitTorrent clients listen, trackerPort where ours does, on the publisher.
	torrentPort = 6881
	trackerPort = 6969
)

// metainfo writes the .torrent of the source (BEP 3).
func (t *attempt) metainfo(path string, pieceLen int64) error {
	f, err := os.Open(t.file)
	if err != nil {
		return err
	}
	defer f.Close()
	var pieces []byte
	piece := make([]byte, pieceLen)
	for {
		n, err := io.ReadFull(f, piece)
		if n > 0 {
			sum := sha1.Sum(piece[:n])
			pieces = append(pieces, sum[:]...)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	announce := fmt.Sprintf("http://%s:%d/announce", t.seed.Addr, trackerPort)
	info := fmt.Sprintf("d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:%se", t.size, len(sourceName), sourceName, pieceLen, len(pieces), pieces)
	return os.WriteFile(path, fmt.Appendf(nil, "d8:announce%d:%s4:info%se", len(announce), announce, info), 0o644)
}

//go:embed libtorrent.py
var libtorrentScript string

// libtorrent runs the library with a set of settings, on each host in a small script.
func libtorrent(settings string) func(context.Context, *attempt) (outcome, error) {
	return func(ctx context.Context, t *attempt) (outcome, error) {
		pieceLen := int64(128 << 10)
		if t.size >= 512<<20 {
			pieceLen = 256 << 10
		}
		torrent := t.seed.Path("torrent")
		if err := t.metainfo(torrent, pieceLen); err != nil {
			return outcome{}, err
		}
		var clients []*client
		for i, h := range append([]*netlab.Host{t.seed}, t.to...) {
			args := []string{"-c", libtorrentScript, settings, torrent, h.Path(""), h.Addr}
			for _, c := range clients { // each connects to those before it
				args = append(args, c.host.Addr)
			}
			c, err := t.client(h, "/usr/bin/python3", args...)
			if err != nil {
				return outcome{}, err
			}
			clients = append(clients, c)
			if _, err := c.ready.wait(ctx, c.proc); err != nil {
				return outcome{}, fmt.Errorf("client %d: %w", i, err)
			}
		}
		if err := t.begin(); err != nil {
			return outcome{}, err
		}
		for _, c := range clients {
			if _, err := io.WriteString(c.stdin, "go\n"); err != nil {
				return outcome{}, err
			}
		}
		return t.finishClients(ctx, clients[1:])
	}
}

// client is a BitTorrent client that prints "ready" and "complete" in lines of their own, and goes on to serve others.
type client struct {
	host            *netlab.Host
	proc            *netlab.Process
	stdin           io.WriteCloser
	ready, complete *lines
}

func (t *attempt) client(h *netlab.Host, program string, args ...string) (*client, error) {
	c := &client{host: h, ready: awaiting(containing("ready")), complete: awaiting(containing("complete"))}
	cmd := h.Command(program, args...)
	cmd.Stdout = io.MultiWriter(c.ready, c.complete)
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	c.proc, err = t.start(cmd)
	return c, err
}

// finishClients waits until all receivers are complete and compares what they have.
func (t *attempt) finishClients(ctx context.Context, clients []*client) (outcome, error) {
	var at []time.Time
	for _, c := range clients {
		when, err := c.complete.wait(ctx, c.proc)
		if err != nil {
			return outcome{}, fmt.Errorf("%s: %w", c.host.Name, err)
		}
		at = append(at, when)
	}
	o, err := t.end(at)
	if err != nil {
		return o, err
	}
	for _, c := range clients {
		if err := t.same(c.host.Path(sourceName)); err != nil {
			return o, err
		}
	}
	return o, nil
}

// runAria2 runs aria2, which needs a tracker for its peers to find each other.
func runAria2(ctx context.Context, t *attempt) (outcome, error) {
	self, err := os.Executable()
	if err != nil {
		return outcome{}, err
	}
	announced := awaiting(containing("announced"))
	tracker := t.seed.Command(self, "swarm", "tracker", fmt.Sprintf("%s:%d", t.seed.Addr, trackerPort))
	tracker.Stdout, tracker.Stderr = announced, os.Stderr
	tracking, err := netlab.Start(tracker) // no process of the tool: its CPU is ours
	if err != nil {
		return outcome{}, err
	}
	defer tracking.Kill()
	if err := tracking.AwaitListener(ctx, trackerPort); err != nil {
		return outcome{}, err
	}
	torrent, hook := t.seed.Path("torrent"), t.seed.Path("hook")
	if err := t.metainfo(torrent, 256<<10); err != nil {
		return outcome{}, err
	}
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho complete\n"), 0o755); err != nil {
		return outcome{}, err
	}
	start := func(h *netlab.Host, more ...string) (*client, error) {
		return t.client(h, "aria2c", append([]string{"--quiet", "--no-conf", "--dir=" + h.Path(""), "--seed-ratio=0",
			"--file-allocation=none", "--bt-enable-lpd=false", "--enable-dht=false", fmt.Sprintf("--listen-port=%d", torrentPort),
			"--on-bt-download-complete=" + hook, torrent}, more...)...)
	}
	if _, err := start(t.seed, "--bt-seed-unverified=true", "--allow-overwrite=true"); err != nil {
		return outcome{}, err
	}
	if _, err := announced.wait(ctx, tracking); err != nil {
		return outcome{}, err
	}
	if err := t.begin(); err != nil {
		return outcome{}, err
	}
	var clients []*client
	for _, h := range t.to {
		c, err := start(h)
		if err != nil {
			return outcome{}, err
		}
		clients = append(clients, c)
	}
	return t.finishClients(ctx, clients)
}

// track is a BitTorrent tracker (BEP 3, compact answers of BEP 23) that tells everybody of all others.
func track(addr string) error {
	var mu sync.Mutex
	var peers []byte
	known := map[string]bool{}
	http.HandleFunc("/announce", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		ip := net.ParseIP(host).To4()
		number, numberErr := strconv.ParseUint(r.FormValue("port"), 10, 16)
		if err != nil || numberErr != nil || ip == nil {
			http.Error(w, "port or address", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "d8:intervali5e12:min intervali1e5:peers%d:%se", len(peers), peers)
		peer := binary.BigEndian.AppendUint16(ip, uint16(number))
		if !known[string(peer)] {
			known[string(peer)] = true
			peers = append(peers, peer...)
		}
		fmt.Println("announced", host)
	})
	return http.ListenAndServe(addr, nil)
}
