package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// lab is a host: a network of its own, a /dev/shm of its own, programs.
type lab struct {
	*options
	net     *netlab.Lab
	host    *netlab.Host
	figures trial.Figures
	peer    string // static, as the guest needs them
	agent   string
	began   []*netlab.Process
}

// privately runs a program with a directory of the lab over /dev/shm.
const privately = `set -e
mount --make-rprivate /
mount --bind "$1" /dev/shm
shift
exec "$@"
`

func newLab(ctx context.Context, o *options) (l *lab, err error) {
	l = &lab{options: o, figures: trial.Figures{}}
	if l.net, err = netlab.New(netlab.Config{Hosts: 1}); err != nil {
		return nil, err
	}
	l.host = l.net.Hosts[0]
	err = os.Mkdir(l.shm(""), 0o755)
	for _, p := range []struct {
		path *string
		pkg  string
	}{{&l.peer, module + "/acceptance/bench/guest/peer"}, {&l.agent, module + "/cmd/virtswarm-agent"}} {
		*p.path = l.path(filepath.Base(p.pkg))
		err = errors.Join(err, buildStatic(ctx, *p.path, p.pkg))
	}
	if err != nil {
		return nil, errors.Join(err, l.net.Close())
	}
	return l, nil
}

// module is the path of the product.
const module = "github.com/virtswarm/virtswarm"

// buildStatic builds a program as it is for guests.
func buildStatic(ctx context.Context, to, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

func (l *lab) close() (err error) {
	for _, p := range l.began {
		p.Kill()
	}
	if l.keep {
		err = keepLogs(l.path("*.log"), l.out)
	}
	return errors.Join(err, l.net.Close())
}

func keepLogs(pattern, dir string) error {
	logs, err := filepath.Glob(pattern)
	for _, log := range logs {
		var text []byte
		if text, err = os.ReadFile(log); err == nil {
			err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "guest-"+filepath.Base(log)), text, 0o644))
		}
		if err != nil {
			break
		}
	}
	return err
}

// path is that of a file of the host; shm that of one in its /dev/shm.
func (l *lab) path(name string) string { return l.host.Path(name) }
func (l *lab) shm(name string) string  { return filepath.Join(l.path("shm"), name) }

// command is a program on the host.
func (l *lab) command(program string, args ...string) *exec.Cmd {
	return l.host.Command("unshare", append([]string{"--mount", "--", "sh", "-c", privately, "sh", l.shm(""), program}, args...)...)
}

// start starts a program that runs until the lab is closed, or it is stopped. What it says goes to a log.
func (l *lab) start(log, program string, args ...string) (*netlab.Process, error) {
	cmd := l.command(program, args...)
	out, err := os.Create(l.path(log + ".log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	p, err := netlab.Start(cmd)
	if err == nil {
		l.began = append(l.began, p)
	}
	return p, err
}

// said is what a program of that log has said, for an error.
func (l *lab) said(log string, err error) error {
	text, _ := os.ReadFile(l.path(log + ".log"))
	return fmt.Errorf("%w\n%s: %s", err, log, text[max(0, len(text)-2000):])
}

// output runs a program on the host to its end.
func (l *lab) output(ctx context.Context, program string, args ...string) ([]byte, error) {
	return run(ctx, l.command(program, args...))
}

func run(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var text, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%v: %w: %s", cmd.Args, err, said.Bytes())
	}
	return text.Bytes(), nil
}

// found is what the program peer says; see there.
type found struct {
	Bytes                      int64
	Seconds, Median, P99, Part float64
}

// rate is in MB/s.
func (f found) rate() float64 { return float64(f.Bytes) / 1e6 / f.Seconds }

func decoded(out []byte, err error) (f found, _ error) {
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	return f, err
}

// Where two processes are to be on a processor each.
const (
	hostCore  = "0"
	guestCore = "1"
)

// serving starts the host's end of a bare channel.
func (l *lab) serving(network, address string, spin time.Duration) (*netlab.Process, error) {
	cmd := l.command("taskset", "-c", hostCore, l.peer, "serve", network, address, spin.String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	p, err := netlab.Start(cmd)
	if err != nil {
		return nil, err
	}
	l.began = append(l.began, p)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		p.Kill()
		return nil, fmt.Errorf("serve %s at %s: it says %q", network, address, line)
	}
	return p, nil
}
