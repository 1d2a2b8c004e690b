package netlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// device is the name of a host's only network card.
const device = "eth0"

// Host is one host of a lab.
type Host struct {
	Name string // h1, h2, ...
	Addr string // its IPv4 address
	Rack int    // from 0

	lab   *Lab
	index int

	mu    sync.Mutex
	muted map[*Host]bool
}

// Traffic counts the bytes of a link, seen from one end. A packet that the kernel keeps joined (GSO) counts as one: the
// frames' headers hardly show.
type Traffic struct{ Sent, Received int64 }

// Sub returns what was added since.
func (t Traffic) Sub(since Traffic) Traffic {
	return Traffic{t.Sent - since.Sent, t.Received - since.Received}
}

func address(i int) string { return fmt.Sprintf("%s.%d", network, i+1) }

// network is the same for every lab: namespaces keep labs apart.
const network = "10.77.0"

func (h *Host) namespace() string { return namespace(h.lab.id, h.Name) }

// port is the switch's end of the host's link.
func (h *Host) port() string { return "p" + h.Name }

// plugIn makes the namespace and the link. The congestion control is fixed, whatever the machine prefers, by the route:
// the sysctl refuses some of them outside the first namespace.
func (h *Host) plugIn(rate Rate) error {
	ns := h.namespace()
	if err := run("ip", "netns", "add", ns); err != nil {
		return err
	}
	var b batch
	b.add("link set lo up")
	b.add("link add %s type veth peer name %s netns %s", device, h.port(), h.lab.switchNS())
	b.add("link set %s up", device)
	b.add("addr add %s/24 broadcast %s.255 dev %s noprefixroute", h.Addr, network, device)
	b.add("route add %s.0/24 dev %s src %s congctl cubic", network, device, h.Addr)
	if err := b.run(ns); err != nil {
		return err
	}
	// What one connection learnt about the path must not help the next.
	forget := h.Command("sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save")
	if out, err := forget.CombinedOutput(); err != nil {
		return fmt.Errorf("set sysctl: %w: %s", err, out)
	}
	b = nil
	b.add("link set %s master %s up", h.port(), rackSwitch(h.Rack))
	if err := b.run(h.lab.switchNS()); err != nil {
		return err
	}
	return h.SetRate(rate, rate)
}

// Command is a program on the host, in a process group of its own. It dies with this process.
func (h *Host) Command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + filepath.Join(namespaces, h.namespace()), "--", program}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Path is a path below the lab's directory that is this host's own. The directory exists.
func (h *Host) Path(name string) string {
	dir := filepath.Join(h.lab.Dir, h.Name)
	os.MkdirAll(dir, 0o755) // if that fails, the first use of the path says so
	return filepath.Join(dir, name)
}

// SetRate changes the rates of the host's link.
func (h *Host) SetRate(up, down Rate) error {
	// Both ends are limited both ways, as two network cards are: a queue at the sender, none at the receiver.
	return errors.Join(limit(h.namespace(), device, up), limit(h.lab.switchNS(), h.port(), down))
}

// Cut unplugs the host's cable; Heal plugs it in again.
func (h *Host) Cut() error { return run("ip", "-n", h.lab.switchNS(), "link", "set", h.port(), "down") }

// Heal plugs the host's cable in.
func (h *Host) Heal() error { return run("ip", "-n", h.lab.switchNS(), "link", "set", h.port(), "up") }

// Mute makes all that this host sends to another vanish, or lets it through again. The other direction stays as it is.
func (h *Host) Mute(to *Host, mute bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.muted[to] == mute {
		return nil
	}
	var b batch
	if mute { // frames go to an address that nobody has
		b.add("neigh replace %s lladdr 02:00:00:00:de:ad dev %s nud permanent", to.Addr, device)
	} else {
		b.add("neigh del %s dev %s", to.Addr, device)
	}
	if err := b.run(h.namespace()); err != nil {
		return fmt.Errorf("mute %s towards %s: %w", h.Name, to.Name, err)
	}
	if h.muted == nil {
		h.muted = map[*Host]bool{}
	}
	h.muted[to] = mute
	return nil
}

// Traffic counts what the host has sent and received.
func (h *Host) Traffic() (Traffic, error) { return counters(h.namespace(), device) }

// limit shapes what leaves a device. The bucket and the queue are the recipe's: a burst that holds two of the largest
// packets, and 50 ms of queue as a switch has.
func limit(ns, dev string, rate Rate) error {
	if rate == 0 {
		exec.Command("tc", "-n", ns, "qdisc", "del", "dev", dev, "root").Run() // none is there: nothing to do
		return nil
	}
	return run("tc", "-n", ns, "qdisc", "replace", "dev", dev, "root", "tbf", "rate", fmt.Sprintf("%dbit", rate), "burst", "128k", "latency", "50ms")
}

func counters(ns, dev string) (Traffic, error) {
	out, err := exec.Command("ip", "-n", ns, "-json", "-stats", "link", "show", "dev", dev).Output()
	if err != nil {
		return Traffic{}, fmt.Errorf("count bytes of %s in %s: %w", dev, ns, err)
	}
	var links []struct {
		Stats struct {
			Rx struct{ Bytes int64 }
			Tx struct{ Bytes int64 }
		} `json:"stats64"`
	}
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 {
		return Traffic{}, fmt.Errorf("count bytes of %s in %s: read %q: %w", dev, ns, out, err)
	}
	return Traffic{Sent: links[0].Stats.Tx.Bytes, Received: links[0].Stats.Rx.Bytes}, nil
}
