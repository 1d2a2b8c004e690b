package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// Of control while bulk goes: how many requests of a kind, and the pause between two.
const (
	requests     = 500
	requestPause = 2 * time.Millisecond
)

// native is an agent's link that needs no guest.
type native struct{ name, url, here string } // here: its URL outside of the host's mount namespace

// stubUUID is that of a machine that never runs: its memory is there, and an agent beside it finds it there.
const stubUUID = "0b9d7c52-3d2e-4a55-9b62-bb5c0f3e1a02"

// natively measures an agent that is a process of this machine.
func (l *lab) natively(ctx context.Context) error {
	d, err := l.startDaemon(ctx)
	if err != nil {
		return err
	}
	defer d.stop()
	region := agentMemory(stubUUID)
	args, err := l.plug(region)
	if err != nil {
		return err
	}
	args = append(args, "-S", "-machine", "q35", "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-name", "stub", "-uuid", stubUUID,
		"-qmp", "unix:"+filepath.Join(l.path("qmp"), "stub.sock")+",server=on,wait=off")
	stub, err := l.start("stub", "qemu-system-x86_64", args...)
	if err != nil {
		return err
	}
	defer stub.Kill()
	socket := l.path("test.sock_7117")
	links := []native{
		{"shm", "shm:///dev/shm/" + region.file, "shm://" + l.shm(region.file)},
		{"unix socket", "unix://" + socket, "unix://" + socket},
	}
	if err := await(ctx, "the daemon takes links", func() bool {
		_, err := os.Stat(socket)
		info, probeErr := shmring.Probe(l.shm(region.file))
		return err == nil && probeErr == nil && info.Served
	}); err != nil {
		return l.said("virtswarmd", l.said("stub", err))
	}
	size := nativeTimes * l.size
	source, err := d.publish(ctx, "native", size)
	if err != nil {
		return err
	}
	defer os.Remove(source)
	if l.wants("native") {
		if err := l.deliverNatively(ctx, d, source, links, size); err != nil {
			return err
		}
	}
	if l.wants("control") {
		return l.control(ctx, links, size)
	}
	return nil
}

func (l *lab) deliverNatively(ctx context.Context, d *daemon, source string, links []native, size int64) error {
	dest := l.path("delivered")
	type kind struct {
		name, note string
		args       []string
	}
	kinds := []kind{{"cp", "not verified", []string{"cp", "--reflink=never", source, dest}}}
	for _, link := range links {
		kinds = append(kinds, kind{"pull by " + link.name, "verified at both ends, synced", []string{l.agent, "--link", link.url, "pull", "native", dest}})
	}
	if err := trial.RandomFile(dest, size); err != nil { // memory that is used for the first time costs, see package bench
		return err
	}
	for run := range l.runs {
		for _, k := range kinds {
			os.Remove(dest)
			cmd, before, start := l.command(k.args[0], k.args[1:]...), d.proc.CPU(), time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", k.name, err, out)
			}
			l.figures.Add("native "+k.name, float64(size)/1e6/time.Since(start).Seconds())
			cpu := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
			if k.name != "cp" {
				cpu += d.proc.CPU() - before
			}
			l.figures.Add("native "+k.name+" CPU", cpu*(1<<30)/float64(size))
			if run == 0 {
				if _, err := l.output(ctx, "cmp", source, dest); err != nil {
					return err
				}
			}
		}
	}
	os.Remove(dest)
	t := trial.NewTable(fmt.Sprintf("Natively: a file of %s, from memory to memory", humanize.IBytes(uint64(size))), "MB/s", "speed ÷ cp", "CPU s per GiB", "note")
	for _, k := range kinds {
		rate := l.figures.Median("native " + k.name)
		t.Line(k.name, trial.Num(rate, 0), trial.Num(rate/l.figures.Median("native cp"), 2), trial.Num(l.figures.Median("native "+k.name+" CPU"), 2), k.note)
	}
	t.End()
	return nil
}

// The moments at which control is measured.
const (
	alone  = "alone"
	other  = "bulk"   // another agent of the same guest pulls, over a link of its own
	shared = "shared" // the same agent pulls, over the same link
)

// control measures requests of one agent, alone and while the guest pulls.
func (l *lab) control(ctx context.Context, links []native, size int64) error {
	bulk := bulkTimes * l.size
	times := int((bulk + size - 1) / size)
	for range l.runs {
		for _, link := range links {
			pulls := map[string]func(ctx context.Context, a *guestagent.Agent) error{
				other: func(ctx context.Context, _ *guestagent.Agent) error {
					args := []string{"-c", `exec "$@" >/dev/null`, "sh", l.agent, "--link", link.url, "pull", "native", "-"}
					_, err := run(ctx, l.command("sh", args...))
					return err
				},
				shared: func(ctx context.Context, a *guestagent.Agent) error {
					_, err := a.PullTo(ctx, "native", io.Discard, guestagent.PullOptions{})
					return err
				},
			}
			if err := l.requests(ctx, &guestagent.Agent{Link: link.here}, link, alone); err != nil {
				return err
			}
			for _, when := range []string{other, shared} {
				if err := l.requestsWhile(ctx, link, when, times, pulls[when]); err != nil {
					return err
				}
			}
		}
	}
	kinds := []struct{ name, note string }{
		{"ping", "on an open link"}, {"ls", "a new stream each time, and where there is no link a new link"},
	}
	t := trial.NewTable(fmt.Sprintf("Natively: control while %s are pulled by the same guest", humanize.IBytes(uint64(bulk))),
		"alone: median ms", "p95", "over another link: median ms", "p95", "p99", "over the same link: median ms", "p95", "p99",
		"note")
	for _, link := range links {
		for _, kind := range kinds {
			m := func(when, part string) string {
				return trial.Num(1e3*l.figures.Median("control "+kind.name+" "+link.name+" "+when+" "+part), 3)
			}
			t.Line(kind.name+" by "+link.name, m(alone, "median"), m(alone, "p95"), m(other, "median"), m(other, "p95"),
				m(other, "p99"), m(shared, "median"), m(shared, "p95"), m(shared, "p99"), kind.note)
		}
	}
	t.End()
	return nil
}

// requestsWhile measures requests while the file is pulled to nowhere, at least so many times and until all requests
// are made.
func (l *lab) requestsWhile(
	ctx context.Context, link native, when string, times int, pull func(context.Context, *guestagent.Agent) error,
) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	a := &guestagent.Agent{Link: link.here}
	enough, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-enough:
				if n >= times {
					return
				}
			default:
			}
			if err := pull(ctx, a); err != nil {
				stop(err)
				return
			}
		}
	}()
	err := l.requests(ctx, a, link, when)
	if err != nil {
		stop(err)
	}
	close(enough)
	<-done
	return context.Cause(ctx)
}

// requests measures those of both kinds.
func (l *lab) requests(ctx context.Context, a *guestagent.Agent, link native, when string) error {
	var pings, lists []time.Duration
	if _, err := a.Ping(ctx, requests, requestPause, func(_ int, d time.Duration) { pings = append(pings, d) }); err != nil {
		return err
	}
	for range requests {
		start := time.Now()
		if _, err := a.List(ctx, ""); err != nil {
			return err
		}
		lists = append(lists, time.Since(start))
		time.Sleep(requestPause)
	}
	for name, times := range map[string][]time.Duration{"ping": pings, "ls": lists} {
		slices.Sort(times)
		for part, at := range map[string]float64{"median": 0.5, "p95": 0.95, "p99": 0.99} {
			l.figures.Add("control "+name+" "+link.name+" "+when+" "+part, times[int(at*float64(len(times)-1))].Seconds())
		}
	}
	return nil
}
