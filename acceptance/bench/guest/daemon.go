package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// daemon is virtswarmd on the host. Its guests are the domain "test" of libvirt's test driver, which is a socket in
// this lab's directory, and whatever QEMU has its QMP there.
type daemon struct {
	lab    *lab
	proc   *netlab.Process
	socket string
}

func (l *lab) startDaemon(ctx context.Context) (*daemon, error) {
	d := &daemon{lab: l, socket: l.path("api")}
	config := fmt.Sprintf("libvirt: {uri: \"test:///default\"}\nqmp: [%q]\nguests: {vsock: \"off\", hybrid: [%q]}\n", l.path("qmp"), l.path("{name}.sock"))
	if err := os.WriteFile(l.path("config"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.path("qmp"), 0o755); err != nil {
		return nil, err
	}
	var err error
	if d.proc, err = l.start("virtswarmd", filepath.Join(l.bin, "virtswarmd"), "--config", l.path("config"), "--name", l.host.Name,
		"--listen", l.host.Addr+":7117", "--data", l.path("data"), "--socket", d.socket); err != nil {
		return nil, err
	}
	if _, err := d.cli(ctx, "status", "--wait", "60s"); err != nil {
		return nil, l.said("virtswarmd", err)
	}
	return d, nil
}

func (d *daemon) cli(ctx context.Context, args ...string) ([]byte, error) {
	return d.lab.output(ctx, filepath.Join(d.lab.bin, "virtswarm"), append([]string{"--socket", d.socket}, args...)...)
}

// publish makes a file of random bytes, and one of all guests' of it.
func (d *daemon) publish(ctx context.Context, name string, size int64) (path string, err error) {
	path = d.lab.path(name)
	if err := trial.RandomFile(path, size); err != nil {
		return "", err
	}
	_, err = d.cli(ctx, "publish", path, name, "--guests", "all", "--replicas", "1")
	return path, err
}

// stop ends it, and what it had.
func (d *daemon) stop() error {
	d.proc.Kill()
	return os.RemoveAll(d.lab.path("data"))
}

// await waits until something is so.
func await(ctx context.Context, what string, so func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !so() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("await that %s: %w", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
