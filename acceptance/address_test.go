package acceptance

import (
	"strings"
	"testing"
)

// TestMachineWithoutAddress: a member starts before its machine has an address, as early in a boot. It goes by the one it
// had; once the machine has it again it is back by itself, and with another one after its next start.
func TestMachineWithoutAddress(t *testing.T) {
	t.Parallel()
	l := newNetLab(t, 3, 1e9, func(l *lab) {
		for _, h := range l.hosts {
			h.args[5] = ":7117"
		}
	})
	h := l.hosts[2]
	a := l.random("a", 1<<20, 1)
	l.hosts[0].must("publish", a, "a", "--replicas", "3")
	ip := func(args ...string) {
		t.Helper()
		if out, err := h.at.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	back := func(addr string) func() bool {
		return func() bool {
			r := l.hosts[0].run("hosts")
			for line := range strings.Lines(r.stdout) {
				if strings.Contains(line, "h3") {
					return strings.Contains(line, addr) && strings.Contains(line, "alive")
				}
			}
			return false
		}
	}
	start := func(to string) {
		t.Helper()
		if code := h.stop(); code != 0 {
			t.Fatalf("%s ended with %d", h.name, code)
		}
		ip("addr", "flush", "dev", "eth0")
		h.launch()
		l.await("it serves", func() bool { return h.run("ls").code == 0 })
		h.must("pull", "a", l.out(to)) // from its own store
		l.same(a, l.out(to))
	}

	start("before")
	ip("addr", "add", h.at.Addr+"/24", "dev", "eth0")
	l.await("it is back", back(h.addr))
	if h.run("status", "--wait", patience.String()).code != 0 {
		t.Error("it is back and does not know it")
	}

	start("after")
	ip("addr", "add", "10.77.0.99/24", "dev", "eth0")
	if code := h.wait(); code != 19 {
		t.Errorf("with another address it ends with %d", code)
	}
	h.start()
	l.await("it is at its new address", back("10.77.0.99:7117"))
}
