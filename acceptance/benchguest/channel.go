package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/virtswarm/virtswarm/internal/shmring"
)

// way is one kind of bare channel.
type way struct {
	name, network, address string
	spin                   time.Duration
	echoOnly               bool
}

// alwaysSpin is longer than any wait of a round trip.
const alwaysSpin = time.Second

// nativeTrips is how many round trips are made at a time.
const nativeTrips = 20000

// channels measures bare channels between two processes of this machine, each on a core of its own.
func (l *lab) channels(ctx context.Context) error {
	ways := []way{
		{name: "shm", network: "shm", address: l.path("region")},
		{name: "shm, spinning", network: "shm", address: l.path("region"), spin: alwaysSpin, echoOnly: true},
		{name: "unix socket", network: "unix", address: l.path("socket")},
		{name: "TCP loopback", network: "tcp", address: "127.0.0.1:9000"},
	}
	for range l.runs {
		f, err := decoded(l.output(ctx, "taskset", "-c", guestCore, l.peer, "memcpy", l.long.String()))
		if err != nil {
			return err
		}
		l.figures.add("native memcpy", f.rate())
		for _, w := range ways {
			if err := l.channel("native", w, func(args ...string) (found, error) {
				return decoded(l.output(ctx, "taskset", append([]string{"-c", guestCore, l.peer}, args...)...))
			}, w.address, nativeTrips); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	memcpy := l.figures.median("native memcpy")
	t := newTable("Natively: two processes, each on a core of its own", "MB/s", "÷ memcpy", "÷ unix", "÷ TCP", "round trip µs", "p99 µs", "unix ÷ it", "TCP ÷ it")
	t.line("memcpy", num(memcpy, 0), "1.00")
	m := func(name, what string) float64 { return l.figures.median("native " + name + " " + what) }
	for _, w := range ways {
		rate, trip := m(w.name, "send"), m(w.name, "median")
		t.line(w.name, num(rate, 0), num(rate/memcpy, 2), num(rate/m("unix socket", "send"), 1), num(rate/m("TCP loopback", "send"), 1),
			num(1e6*trip, 2), num(1e6*m(w.name, "p99"), 2), num(m("unix socket", "median")/trip, 1), num(m("TCP loopback", "median")/trip, 1))
	}
	t.end()
	return nil
}

// channel measures one once, by what run says of peer's arguments at the guest's end, where the channel has an address of its
// own: figures send and receive in MB/s, median and p99 in seconds.
func (l *lab) channel(place string, w way, run func(args ...string) (found, error), address string, trips int) error {
	if w.network != "tcp" && place == "native" {
		defer os.Remove(w.address)
	}
	if w.network == "shm" && place == "native" {
		if err := shmring.Create(w.address, shmring.DefaultSize, -1, -1); err != nil {
			return err
		}
	}
	server, err := l.serving(w.network, w.address, w.spin)
	if err != nil {
		return err
	}
	defer server.Kill()
	for _, op := range []string{"send", "receive"} {
		if w.echoOnly {
			break
		}
		f, err := run("run", op, w.network, address, l.long.String())
		if err != nil {
			return err
		}
		l.figures.add(place+" "+w.name+" "+op, f.rate())
	}
	f, err := run("run", "echo", w.network, address, strconv.Itoa(trips), w.spin.String())
	if err != nil {
		return err
	}
	l.figures.add(place+" "+w.name+" median", f.Median)
	l.figures.add(place+" "+w.name+" p99", f.P99)
	return nil
}

// idle measures what regions cost at which nothing happens.
func (l *lab) idle(ctx context.Context) error {
	kinds := []string{"listening", "connected"}
	for range l.runs {
		for _, kind := range kinds {
			cmd := l.command(l.peer, "idle", kind, (2 * l.long).String())
			cmd.Dir = l.path("")
			f, err := decoded(run(ctx, cmd))
			if err != nil {
				return err
			}
			l.figures.add("idle "+kind, f.Part)
		}
	}
	t := newTable("500 regions at which nothing happens", "part of a core, %", "each, µs a second")
	for _, kind := range kinds {
		part := l.figures.median("idle " + kind)
		t.line(kind, num(100*part, 2), num(1e6*part/500, 1))
	}
	t.end()
	return nil
}
