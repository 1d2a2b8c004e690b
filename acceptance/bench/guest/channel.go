package guest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
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
		l.figures.Add("native memcpy", f.rate())
		for _, w := range ways {
			if err := l.channel("native", w, func(args ...string) (found, error) {
				return decoded(l.output(ctx, "taskset", append([]string{"-c", guestCore, l.peer}, args...)...))
			}, w.address, nativeTrips); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	memcpy := l.figures.Median("native memcpy")
	t := trial.NewTable("Natively: two processes, each on a core of its own", "MB/s", "÷ memcpy", "÷ unix", "÷ TCP", "round trip µs", "p99 µs", "unix ÷ it", "TCP ÷ it")
	t.Line("memcpy", trial.Num(memcpy, 0), "1.00")
	m := func(name, what string) float64 { return l.figures.Median("native " + name + " " + what) }
	for _, w := range ways {
		rate, trip := m(w.name, "send"), m(w.name, "median")
		t.Line(w.name, trial.Num(rate, 0), trial.Num(rate/memcpy, 2), trial.Num(rate/m("unix socket", "send"), 1), trial.Num(rate/m("TCP loopback", "send"), 1),
			trial.Num(1e6*trip, 2), trial.Num(1e6*m(w.name, "p99"), 2), trial.Num(m("unix socket", "median")/trip, 1), trial.Num(m("TCP loopback", "median")/trip, 1))
	}
	t.End()
	return nil
}

// channel measures one once, by what run says of peer's arguments at the guest's end, where the channel has an address
// of its own: figures send and receive in MB/s, median and p99 in seconds.
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
		l.figures.Add(place+" "+w.name+" "+op, f.rate())
	}
	f, err := run("run", "echo", w.network, address, strconv.Itoa(trips), w.spin.String())
	if err != nil {
		return err
	}
	l.figures.Add(place+" "+w.name+" median", f.Median)
	l.figures.Add(place+" "+w.name+" p99", f.P99)
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
			l.figures.Add("idle "+kind, f.Part)
		}
	}
	t := trial.NewTable("500 regions at which nothing happens", "part of a core, %", "each, µs a second")
	for _, kind := range kinds {
		part := l.figures.Median("idle " + kind)
		t.Line(kind, trial.Num(100*part, 2), trial.Num(1e6*part/500, 1))
	}
	t.End()
	return nil
}
