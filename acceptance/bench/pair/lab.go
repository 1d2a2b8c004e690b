package pair

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lab runs one tool at a time between a holder and a fetcher.
type lab struct {
	work, bin, file string
	size            int64
	// apart gives the holder and the fetcher a core each, as two hosts have their own; else they share all cores.
	apart bool
}

// The two ends, by the core that they get.
const (
	holderCore  = "0"
	fetcherCore = "1"
)

// command is a program at one of the ends.
func (l *lab) command(ctx context.Context, core, program string, args ...string) *exec.Cmd {
	if l.apart {
		program, args = "taskset", append([]string{"-c", core, program}, args...)
	}
	return exec.CommandContext(ctx, program, args...)
}

// rawToFile is the limit for anything built on Go's TLS: file to socket, socket to file.
func (l *lab) rawToFile(ctx context.Context) (sample, error) {
	return l.raw(ctx, filepath.Join(l.work, "raw"))
}

// rawToNowhere leaves the writing out.
func (l *lab) rawToNowhere(ctx context.Context) (sample, error) { return l.raw(ctx, os.DevNull) }

func (l *lab) raw(ctx context.Context, dest string) (sample, error) {
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	serve := l.command(ctx, holderCore, self, "pair", "tls-serve", l.file)
	out, err := serve.StdoutPipe()
	if err != nil {
		return sample{}, err
	}
	serve.Stderr = os.Stderr
	if err := serve.Start(); err != nil {
		return sample{}, err
	}
	defer serve.Process.Kill()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return sample{}, fmt.Errorf("read the server's address: %w", err)
	}
	start := time.Now()
	fetch := l.command(ctx, fetcherCore, self, "pair", "tls-fetch", strings.TrimSpace(addr), dest)
	if err := l.runChecked(fetch, dest); err != nil {
		return sample{}, err
	}
	wall := time.Since(start).Seconds()
	if err := serve.Wait(); err != nil {
		return sample{}, err
	}
	return sample{wall: wall, cpu: childCPU(fetch) + childCPU(serve)}, nil
}

// nginxCurl is the usual way to move a file over TLS, with the cipher that Go picks too.
func (l *lab) nginxCurl(ctx context.Context) (sample, error) {
	dir := filepath.Join(l.work, "nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return sample{}, err
	}
	defer os.RemoveAll(dir)
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := writeCertificate(cert, key); err != nil {
		return sample{}, err
	}
	port, err := freePort()
	if err != nil {
		return sample{}, err
	}
	conf := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log; user root;
events {}
http {
	access_log off; sendfile on; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3;
	uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	server {
		listen 127.0.0.1:%[2]d ssl; ssl_certificate %[3]s; ssl_certificate_key %[4]s; ssl_protocols TLSv1.3;
		root %[5]s;
	}
}`, dir, port, cert, key, l.work)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return sample{}, err
	}
	nginx := l.command(ctx, holderCore, "/usr/sbin/nginx", "-c", path, "-p", dir)
	nginx.Stderr = os.Stderr
	if err := nginx.Start(); err != nil {
		return sample{}, err
	}
	defer func() {
		nginx.Process.Signal(syscall.SIGTERM)
		nginx.Wait()
	}()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	if err := awaitListener(ctx, addr); err != nil {
		return sample{}, err
	}
	before := treeCPU(nginx.Process.Pid)
	start := time.Now()
	dest := filepath.Join(l.work, "curled")
	curl := l.command(ctx, fetcherCore, "curl", "--silent", "--show-error", "--insecure", "--tls13-ciphers",
		"TLS_AES_128_GCM_SHA256", "--output", dest, "https://"+addr+"/"+filepath.Base(l.file))
	if err := l.runChecked(curl, dest); err != nil {
		return sample{}, err
	}
	wall := time.Since(start).Seconds()
	return sample{wall: wall, cpu: childCPU(curl) + treeCPU(nginx.Process.Pid) - before}, nil
}

// runChecked runs a fetcher and makes sure that it really fetched all bytes; the destination is removed.
func (l *lab) runChecked(cmd *exec.Cmd, dest string) error {
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	if dest == os.DevNull {
		return nil
	}
	defer os.Remove(dest)
	fi, err := os.Stat(dest)
	if err != nil {
		return err
	}
	if fi.Size() != l.size {
		return fmt.Errorf("%s has %d bytes, want %d", dest, fi.Size(), l.size)
	}
	return nil
}

// virtswarm measures two real daemons. The file is published at one with a single copy; the clock runs from the moment
// it is in the catalogue, when the other may begin to fetch, until the catalogue says that the other holds all of it,
// safe on its disk.
func (l *lab) virtswarm(ctx context.Context) (sample, error) {
	dir, err := os.MkdirTemp(l.work, "cluster.")
	if err != nil {
		return sample{}, err
	}
	defer os.RemoveAll(dir)
	holder, err := l.daemon(ctx, dir, "holder", holderCore)
	if err != nil {
		return sample{}, err
	}
	defer holder.stop()
	token, err := holder.cli(ctx, "token", "--json")
	if err != nil {
		return sample{}, err
	}
	var t struct {
		Token     string   `json:"token"`
		Addresses []string `json:"addresses"`
	}
	if err := json.Unmarshal(token, &t); err != nil {
		return sample{}, fmt.Errorf("read token: %w", err)
	}
	fetcher, err := l.daemon(ctx, dir, "fetcher", fetcherCore, "--join", t.Addresses[0], "--token", t.Token)
	if err != nil {
		return sample{}, err
	}
	defer fetcher.stop()
	if _, err := holder.cli(ctx, "publish", l.file, "bench", "--replicas", "1", "--wait", "committed"); err != nil {
		return sample{}, err
	}
	cpu := func() float64 { return treeCPU(holder.pid()) + treeCPU(fetcher.pid()) }
	return timed(cpu, func() error {
		_, err := fetcher.cli(ctx, "distribute", "bench", "--to", "fetcher", "--watch")
		return err
	})
}

// daemon is one virtswarmd.
type daemon struct {
	bin, socket string
	cmd         *exec.Cmd
}

func (l *lab) daemon(ctx context.Context, dir, name, core string, args ...string) (*daemon, error) {
	d := &daemon{bin: l.bin, socket: filepath.Join(dir, name+".sock")}
	args = append([]string{"--name", name, "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, name), "--socket", d.socket}, args...)
	d.cmd = l.command(ctx, core, filepath.Join(l.bin, "virtswarmd"), args...)
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd.Stderr = log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := d.cli(ctx, "status", "--wait", "30s"); err != nil {
		d.stop()
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("start %s: %w\n%s", name, err, text)
	}
	return d, nil
}

func (d *daemon) pid() int { return d.cmd.Process.Pid }

func (d *daemon) stop() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
}

func (d *daemon) cli(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "virtswarm"), append([]string{"--socket", d.socket}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("virtswarm %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return out, nil
}

// childCPU is the CPU time of a process of ours that has ended, in seconds.
func childCPU(cmd *exec.Cmd) float64 {
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
}

// treeCPU is the CPU time of a running process and of its direct children, in seconds (proc(5), fields 14 and 15 of
// stat, in clock ticks of 10 ms).
func treeCPU(pid int) float64 {
	total := procCPU(pid)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, c := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(c); err == nil {
			total += procCPU(n)
		}
	}
	return total
}

func procCPU(pid int) float64 {
	const ticksPerSecond = 100 // USER_HZ, the same on every Linux architecture that Go supports
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is the command in parentheses and may hold spaces.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticksPerSecond
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func awaitListener(ctx context.Context, addr string) error {
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("await %s: %w", addr, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
