package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// cluster is one virtswarm daemon on each host of a trial.
type cluster struct {
	*attempt
	publisher *member
	receivers []*member
}

// member is one daemon.
type member struct {
	host    *netlab.Host
	proc    *netlab.Process
	bin     string
	socket  string
	log     string
	brought *lines // it has all it was told to hold, and that is durable
}

// fileName is the file's name in the catalogue.
const fileName = "bench"

// startCluster starts the daemons and publishes the file at the publisher, where alone it is then.
func startCluster(ctx context.Context, t *attempt) (*cluster, error) {
	c := &cluster{attempt: t}
	for i, h := range append([]*netlab.Host{t.seed}, t.to...) {
		var args []string
		if i > 0 {
			token, err := c.publisher.cli(ctx, "token")
			if err != nil {
				return nil, err
			}
			args = []string{"--join", c.publisher.host.Addr + ":7117", "--token", strings.TrimSpace(string(token))}
		}
		m, err := t.member(ctx, h, i == 0, args...)
		if err != nil {
			return nil, fmt.Errorf("start virtswarmd on %s: %w", h.Name, err)
		}
		if i == 0 {
			c.publisher = m
		} else {
			c.receivers = append(c.receivers, m)
		}
	}
	_, err := c.publisher.cli(ctx, "publish", t.file, fileName, "--replicas", "1")
	return c, err
}

// member starts a daemon. The publisher weighs so much that the one home of every shard is there: nothing moves before
// the clock starts.
func (t *attempt) member(ctx context.Context, h *netlab.Host, publisher bool, args ...string) (*member, error) {
	m := &member{host: h, bin: t.opts.bin, socket: h.Path("sock"), log: h.Path("log"), brought: awaiting(containing("brought a content"))}
	if t.opts.trace {
		m.log = t.tracePath(h.Name + ".log")
	}
	weight, level := 1, "info"
	if publisher {
		weight = 10000
	}
	if t.opts.trace {
		level = "debug"
	}
	config := fmt.Sprintf("weight: %d\nlabels: {rack: r%d}\nlog: {level: %s}\n", weight, h.Rack, level)
	if err := os.WriteFile(h.Path("config"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(m.log)
	if err != nil {
		return nil, err
	}
	cmd := h.Command(filepath.Join(t.opts.bin, "virtswarmd"), append([]string{"--config", h.Path("config"), "--name", h.Name,
		"--listen", h.Addr + ":7117", "--data", h.Path("data"), "--socket", m.socket}, args...)...)
	cmd.Stderr = io.MultiWriter(log, m.brought)
	if m.proc, err = t.start(cmd); err != nil {
		return nil, err
	}
	if _, err := m.cli(ctx, "status", "--wait", "60s"); err != nil {
		text, _ := os.ReadFile(m.log)
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	return m, nil
}

// cli runs the operator's tool.
func (m *member) cli(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(m.bin, "virtswarm"), append([]string{"--socket", m.socket}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("virtswarm %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// distribute tells hosts to hold the file.
func (c *cluster) distribute(ctx context.Context, to []*member) error {
	var names []string
	for _, m := range to {
		names = append(names, m.host.Name)
	}
	_, err := c.publisher.cli(ctx, "distribute", fileName, "--to", strings.Join(names, ","))
	return err
}

// complete waits until hosts hold the file.
func complete(ctx context.Context, members []*member) (at []time.Time, err error) {
	for _, m := range members {
		when, err := m.brought.wait(ctx, m.proc)
		if err != nil {
			return nil, fmt.Errorf("await the file at %s: %w", m.host.Name, err)
		}
		at = append(at, when)
	}
	return at, nil
}

// check pulls the file at each host, which must need no other host for it, and compares it.
func (c *cluster) check(ctx context.Context, members []*member) error {
	for _, m := range members {
		dest := m.host.Path("pulled")
		out, err := m.cli(ctx, "pull", fileName, dest, "--hardlink", "--json")
		if err != nil {
			return err
		}
		var last struct {
			Remote int64 `json:"remote_bytes"`
		}
		if err := json.Unmarshal(lastLine(out), &last); err != nil {
			return err
		}
		if last.Remote > 0 {
			return fmt.Errorf("%s said that it was complete and fetched another %d bytes", m.host.Name, last.Remote)
		}
		if err := c.same(dest); err != nil {
			return fmt.Errorf("at %s: %w", m.host.Name, err)
		}
	}
	return nil
}

func lastLine(out []byte) []byte {
	out = bytes.TrimSpace(out)
	return out[bytes.LastIndexByte(out, '\n')+1:]
}

func runVirtswarm(ctx context.Context, t *attempt) (outcome, error) {
	c, err := startCluster(ctx, t)
	if err != nil {
		return outcome{}, err
	}
	return c.toAll(ctx)
}

// toAll brings the file to all receivers.
func (c *cluster) toAll(ctx context.Context) (outcome, error) {
	return c.spread(ctx, func() ([]time.Time, error) {
		if err := c.distribute(ctx, c.receivers); err != nil {
			return nil, err
		}
		return complete(ctx, c.receivers)
	}, c.receivers)
}

// spread measures a distribution, whose end at each host do returns, and checks the hosts that must have the file then.
func (c *cluster) spread(ctx context.Context, do func() ([]time.Time, error), check []*member) (outcome, error) {
	if c.opts.trace {
		stop, err := c.trace()
		if err != nil {
			return outcome{}, err
		}
		defer stop()
	}
	if err := c.begin(); err != nil {
		return outcome{}, err
	}
	at, err := do()
	if err != nil {
		return outcome{}, err
	}
	o, err := c.end(at)
	if err != nil {
		return o, err
	}
	return o, c.check(ctx, check)
}
