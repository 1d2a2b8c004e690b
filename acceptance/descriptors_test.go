package acceptance

import (
	"fmt"
	"net"
	"os/exec"
	"syscall"
	"testing"
)

// A daemon that may have few files open works with more contents than that, and goes on after others have taken all of
// its descriptors for a while.
func TestFewDescriptors(t *testing.T) {
	const limit, contents = 64, 80
	l := &lab{t: t, dir: t.TempDir()}
	l.config = l.dir + "/virtswarm.yaml"
	l.write(l.config, []byte(noLibvirt))
	h := l.newHost("h1", network()+".1:7117")
	h.inside = func(program string, args ...string) *exec.Cmd {
		script := fmt.Sprintf(`ulimit -n %d; exec "$@"`, limit)
		cmd := exec.Command("sh", append([]string{"-c", script, "sh", program}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	h.start()
	var files []string
	for i := range contents {
		files = append(files, l.random(fmt.Sprint(i), 70000, byte(i)))
		h.must("publish", files[i], fmt.Sprint(i), "--wait", "committed")
	}
	read := func(files []string) {
		t.Helper()
		for i, file := range files {
			out := l.out(fmt.Sprint(i))
			h.must("pull", fmt.Sprint(i), out)
			l.same(file, out)
			l.check(syscall.Unlink(out))
		}
	}
	read(files)

	var held []net.Conn
	for range 3 * limit {
		for network, addr := range map[string]string{"unix": h.socket, "tcp": h.addr} {
			if c, err := net.Dial(network, addr); err == nil {
				held = append(held, c)
			}
		}
	}
	t.Logf("holding %d connections: %d", len(held), h.run("publish", files[0], "meanwhile", "--wait", "committed").code)
	for _, c := range held {
		c.Close()
	}
	l.await("it publishes again", func() bool { return h.run("publish", files[0], "afterwards", "--wait", "committed").code == 0 })
	read(files[:10])
	if code := h.stop(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
}
