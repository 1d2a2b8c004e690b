package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
)

// guestTrips is how many round trips are made at a time in the guest.
const guestTrips = 2000

// inGuest measures what needs a guest.
func (l *lab) inGuest(ctx context.Context) error {
	if err := os.MkdirAll(l.path("share"), 0o755); err != nil {
		return err
	}
	d, err := l.startDaemon(ctx)
	if err != nil {
		return err
	}
	defer d.stop()
	g, err := l.bootGuest(ctx)
	if err != nil {
		return err
	}
	defer g.stop()
	if l.wants("raw") {
		if err := g.raw(); err != nil {
			return err
		}
	}
	if l.wants("hash") {
		if err := g.hash(); err != nil {
			return err
		}
	}
	if err := g.deliveries(ctx, d); err != nil {
		return err
	}
	fmt.Println("\nvsock is not measured: this machine's AF_VSOCK is its hypervisor's, and vhost-vsock works nested alone")
	return nil
}

// raw compares bare channels out of the guest: shared memory, and TCP by the card.
func (g *guest) raw() error {
	l := g.lab
	ways := []way{
		{name: "shm", network: "shm", address: l.shm("raw")},
		{name: "shm, spinning", network: "shm", address: l.shm("raw"), spin: alwaysSpin, echoOnly: true},
		{name: "TCP, virtio-net", network: "tcp", address: hostAddr + ":9000"},
	}
	for range l.runs {
		for _, w := range ways {
			address := w.address
			if w.network == "shm" {
				address = rawBAR
			}
			if err := l.channel("guest", w, func(args ...string) (found, error) {
				out, err := g.run("peer " + strings.Join(args, " "))
				return decoded([]byte(out), err)
			}, address, guestTrips); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	t := trial.NewTable(fmt.Sprintf("Guest (TCG, %d processor(s)): bare channels", l.cpus), "to the host MB/s", "÷ TCP", "to the guest MB/s", "÷ TCP", "round trip µs", "TCP ÷ it", "p99 µs", "TCP ÷ it")
	m := func(name, what string) float64 { return l.figures.Median("guest " + name + " " + what) }
	tcp := ways[len(ways)-1].name
	for _, w := range ways {
		cells := []string{}
		for _, op := range []string{"send", "receive"} {
			cells = append(cells, trial.Num(m(w.name, op), 0), trial.Num(m(w.name, op)/m(tcp, op), 1))
		}
		for _, part := range []string{"median", "p99"} {
			cells = append(cells, trial.Num(1e6*m(w.name, part), 1), trial.Num(m(tcp, part)/m(w.name, part), 1))
		}
		t.Line(w.name, cells...)
	}
	t.End()
	return nil
}

// hash measures how fast this guest hashes at all: no verified delivery is faster.
func (g *guest) hash() error {
	l := g.lab
	size := min(l.size, 32<<20)
	if _, err := g.run(fmt.Sprintf("head -c %d /dev/urandom >/tmp/file", size)); err != nil {
		return err
	}
	for range l.runs {
		out, err := g.run("peer blake3 /tmp/file")
		f, err := decoded([]byte(out), err)
		if err != nil {
			return err
		}
		l.figures.Add("guest BLAKE3", f.rate())
		start := time.Now()
		if _, err := g.run("sha256sum /tmp/file"); err != nil {
			return err
		}
		l.figures.Add("guest SHA-256", float64(size)/1e6/time.Since(start).Seconds())
	}
	t := trial.NewTable("Guest: hashing a file in memory", "MB/s", "note")
	t.Line("BLAKE3", trial.Num(l.figures.Median("guest BLAKE3"), 0), "as the agent does")
	t.Line("SHA-256", trial.Num(l.figures.Median("guest SHA-256"), 0), "busybox")
	t.End()
	_, err := g.run("rm /tmp/file")
	return err
}

// deliveries brings a file to the guest's disk by all ways that are wanted, in turn so that all see the same moods of
// the machine.
func (g *guest) deliveries(ctx context.Context, d *daemon) error {
	l := g.lab
	wanted := slices.DeleteFunc(slices.Clone(rivals), func(r rival) bool { return !l.wants(r.key) })
	able := slices.DeleteFunc(slices.Clone(wanted), func(r rival) bool { return g.left[r.key] != "" })
	if len(wanted) == 0 {
		return nil
	}
	for _, r := range able {
		name, size := l.file(r)
		if err := l.share(ctx, d, name, size); err != nil {
			return err
		}
		if r.begin != nil {
			if err := r.begin(l); err != nil {
				return fmt.Errorf("begin %s: %w", r.name, err)
			}
		}
	}
	for n := range l.runs {
		for _, r := range able {
			if err := g.deliver(ctx, r, n == 0); err != nil {
				return fmt.Errorf("deliver by %s: %w", r.name, err)
			}
		}
	}
	t := trial.NewTable(fmt.Sprintf("Guest: a file of %s to its disk (virtio-blk, ext4), durable", humanize.IBytes(uint64(l.size))), "MB/s", "shm ÷ it", "guest's CPU s per GiB", "QEMU's and server's", "note")
	m := func(r rival, what string) float64 { return l.figures.Median("deliver " + r.key + what) }
	for _, r := range wanted {
		if why := g.left[r.key]; why != "" {
			t.Line(r.name, "", "", "", "", "left out: "+why)
			continue
		}
		note := r.note
		if r.limit > 0 && r.limit < l.size {
			note += fmt.Sprintf("; %s of it", humanize.IBytes(uint64(r.limit)))
		}
		t.Line(r.name, trial.Num(m(r, ""), 1), trial.Num(m(rivals[0], "")/m(r, ""), 2), trial.Num(m(r, " CPU"), 1), trial.Num(m(r, " host CPU"), 1), note)
	}
	t.End()
	return nil
}

// file is the one that a rival is to bring.
func (l *lab) file(r rival) (name string, size int64) {
	size = l.size
	if r.limit > 0 {
		size = min(size, r.limit)
	}
	return fmt.Sprintf("source-%d", size), size
}

// share makes a file of that name, for all rivals, if it is not there yet.
func (l *lab) share(ctx context.Context, d *daemon, name string, size int64) error {
	path := filepath.Join(l.path("share"), name)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	from, err := d.publish(ctx, name, size)
	if err != nil {
		return err
	}
	return os.Rename(from, path)
}

// deliver brings the file once by one way. The first time it is compared.
func (g *guest) deliver(ctx context.Context, r rival, check bool) error {
	l := g.lab
	name, size := l.file(r)
	if _, err := g.run("rm -f " + got + "; sync; sleep 1"); err != nil {
		return err
	}
	guestBusy, err := g.busy()
	if err != nil {
		return err
	}
	hostBusy, start := cpu(l.began), time.Now()
	if err := r.bring(ctx, g, name); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	after, err := g.busy()
	if err != nil {
		return err
	}
	gib := float64(size) / (1 << 30)
	l.figures.Add("deliver "+r.key, float64(size)/1e6/took)
	l.figures.Add("deliver "+r.key+" CPU", (after-guestBusy)/gib)
	l.figures.Add("deliver "+r.key+" host CPU", (cpu(l.began)-hostBusy)/gib)
	out, err := g.run("ls -l " + got)
	if err == nil && !strings.Contains(out, fmt.Sprintf(" %d ", size)) {
		err = fmt.Errorf("not %d bytes: %s", size, out)
	}
	if err != nil || !check {
		return err
	}
	sum, err := sha256Of(filepath.Join(l.path("share"), name))
	if err != nil {
		return err
	}
	if out, err = g.run("sha256sum " + got); err == nil && !strings.HasPrefix(out, sum) {
		err = fmt.Errorf("not SHA-256 %s: %s", sum, out)
	}
	return err
}

func sha256Of(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}
