package swarm

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// tool is one way to bring a file to many hosts.
type tool struct {
	key  string // how it is asked for
	name string
	note string
	run  func(context.Context, *attempt) (outcome, error)
	// runs bounds how often it is measured, unless it is the only one asked for; 0 does not.
	runs int
}

func (t tool) String() string { return t.key }

// plain is the yardstick: it is measured in every run.
var plain = tool{key: "plain", name: "one plain TCP transfer (socat)", note: "to one receiver, not verified", run: runPlain}

// allTools in the order in which they are run and shown.
var allTools = []tool{
	plain,
	{key: "chain", name: "socat/tee chain", note: "no resume, not verified, one death ends it", run: runChain},
	{key: "virtswarm", name: "virtswarm", note: "TLS, verified, stored", run: runVirtswarm},
	{key: "libtorrent-tuned", name: "libtorrent, tuned", note: "verified", run: libtorrent("tuned")},
	{key: "aria2", name: "aria2", note: "verified", run: runAria2},
	{key: "libtorrent", name: "libtorrent, defaults", note: "verified", run: libtorrent("defaults")},
	{key: "http", name: "HTTP fan-out, nginx + curl", note: "not verified; measured once", run: runHTTP, runs: 1},
}

const (
	// port is where a tool's processes listen; each host has its ports to itself.
	port = 7000
	// block is what socat moves at a time; its default of 8 KiB costs it CPU.
	block = "65536"
)

func runPlain(ctx context.Context, t *attempt) (outcome, error) {
	to := t.to[0]
	p, err := t.start(to.Command("socat", "-u", "-b", block, fmt.Sprintf("TCP-LISTEN:%d", port), "CREATE:"+to.Path("out")))
	if err != nil {
		return outcome{}, err
	}
	if err := p.AwaitListener(ctx, port); err != nil {
		return outcome{}, err
	}
	if err := t.begin(); err != nil {
		return outcome{}, err
	}
	if _, err := t.start(t.seed.Command("socat", "-u", "-b", block, "OPEN:"+t.file, tcpTo(to))); err != nil {
		return outcome{}, err
	}
	return t.finish(ctx, []*netlab.Process{p})
}

func tcpTo(h *netlab.Host) string { return fmt.Sprintf("TCP:%s:%d", h.Addr, port) }

// finish waits for the receivers' processes to end and compares what they wrote.
func (t *attempt) finish(ctx context.Context, procs []*netlab.Process) (outcome, error) {
	at, err := ends(ctx, procs)
	if err != nil {
		return outcome{}, err
	}
	o, err := t.end(at)
	if err != nil {
		return o, err
	}
	for i := range procs {
		if err := t.same(t.to[i].Path("out")); err != nil {
			return o, err
		}
	}
	return o, nil
}

// runChain passes the file from host to host, each writing it while it passes it on.
func runChain(ctx context.Context, t *attempt) (outcome, error) {
	procs := make([]*netlab.Process, len(t.to))
	for i := len(t.to) - 1; i >= 0; i-- { // the last first: the one before connects to it at once
		h := t.to[i]
		script := fmt.Sprintf("socat -u -b %s TCP-LISTEN:%d CREATE:%s", block, port, h.Path("out"))
		if i < len(t.to)-1 {
			script = fmt.Sprintf("socat -u -b %s TCP-LISTEN:%d STDOUT | tee %s | socat -u -b %s STDIN %s",
				block, port, h.Path("out"), block, tcpTo(t.to[i+1]))
		}
		p, err := t.start(h.Command("sh", "-c", script))
		if err != nil {
			return outcome{}, err
		}
		if err := p.AwaitListener(ctx, port); err != nil {
			return outcome{}, err
		}
		procs[i] = p
	}
	if err := t.begin(); err != nil {
		return outcome{}, err
	}
	if _, err := t.start(t.seed.Command("socat", "-u", "-b", block, "OPEN:"+t.file, tcpTo(t.to[0]))); err != nil {
		return outcome{}, err
	}
	return t.finish(ctx, procs)
}

// runHTTP is the usual way: all fetch the same file from one server.
func runHTTP(ctx context.Context, t *attempt) (outcome, error) {
	dir := t.seed.Path("nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return outcome{}, err
	}
	conf := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log; user root;
events {}
http {
	access_log off; sendfile on; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3;
	uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	server { listen %[2]d; root %[3]s; }
}`, dir, port, t.seed.Path(""))
	if err := os.WriteFile(dir+"/nginx.conf", []byte(conf), 0o644); err != nil {
		return outcome{}, err
	}
	nginx, err := t.start(t.seed.Command("/usr/sbin/nginx", "-c", dir+"/nginx.conf", "-p", dir, "-e", dir+"/error.log"))
	if err != nil {
		return outcome{}, err
	}
	if err := nginx.AwaitListener(ctx, port); err != nil {
		return outcome{}, err
	}
	if err := t.begin(); err != nil {
		return outcome{}, err
	}
	var procs []*netlab.Process
	for _, h := range t.to {
		p, err := t.start(h.Command("curl", "--silent", "--show-error", "--fail", "--output", h.Path("out"),
			fmt.Sprintf("http://%s:%d/%s", t.seed.Addr, port, sourceName)))
		if err != nil {
			return outcome{}, err
		}
		procs = append(procs, p)
	}
	return t.finish(ctx, procs)
}

// patience bounds one run; none needs half of it.
func patience(size int64, rate netlab.Rate) time.Duration {
	link := time.Duration(float64(size) * 8 / float64(rate) * float64(time.Second))
	return time.Minute + 2*receivers*link
}
