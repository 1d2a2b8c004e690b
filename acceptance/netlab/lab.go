// Package netlab makes a network of hosts on one Linux machine, for tests and measurements with real programs: each
// host is a network namespace with one link to the switch of its rack, limited each way at both ends; the racks'
// switches are joined by trunks with a rate of their own. Links can be cut, slowed down and counted, and hosts kept
// from hearing one another.
//
// It needs root. Everything happens inside namespaces of its own, the switches too, so that the machine's network
// stays as it is. Close takes everything down, and New takes down what a killed process left behind.
package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrUnavailable says that this machine or this user cannot have a lab; the reason is wrapped with it.
var ErrUnavailable = errors.New("no network lab here")

// MaxHosts is how many hosts fit into the lab's network, a /24.
const MaxHosts = 250

// Rate is the speed of a link in bits a second, each way; 0 is as fast as the machine goes.
type Rate int64

// Config says what network to make.
type Config struct {
	// Hosts is the number of hosts, h1, h2 and so on: 1 to MaxHosts.
	Hosts int
	// Rate is that of each host's link.
	Rate Rate
	// Racks are the numbers of hosts in each rack, together as many as Hosts. None: all stand in one.
	Racks []int
	// Trunk is the rate of each rack's link to the other racks.
	Trunk Rate
}

// Lab is a running network. Its methods and those of its hosts may be called concurrently, except Close.
type Lab struct {
	// Dir is an empty directory in memory for what the hosts read and write. Close empties it.
	Dir string
	// Hosts are the hosts in order; Hosts[0] is h1.
	Hosts []*Host

	id    string
	claim *claim
	racks int
}

// New makes a network. Its error wraps ErrUnavailable where none can be made.
func New(cfg Config) (lab *Lab, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("%w: network namespaces need root", ErrUnavailable)
	}
	claim, err := newClaim()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	l := &Lab{Dir: filepath.Join(root, claim.id), id: claim.id, claim: claim, racks: max(1, len(cfg.Racks))}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := l.mount(l.Dir, "75%"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := l.switches(cfg.Trunk); err != nil {
		return nil, fmt.Errorf("%w: make the switches: %w", ErrUnavailable, err)
	}
	for i := range cfg.Hosts {
		h := &Host{Name: fmt.Sprintf("h%d", i+1), Addr: address(i), Rack: cfg.rack(i), lab: l, index: i}
		if err := h.plugIn(cfg.Rate); err != nil {
			return nil, fmt.Errorf("make host %s: %w", h.Name, err)
		}
		l.Hosts = append(l.Hosts, h)
	}
	return l, nil
}

func (c Config) check() error {
	in := 0
	for _, n := range c.Racks {
		in += n
	}
	switch {
	case c.Hosts < 1 || c.Hosts > MaxHosts:
		return fmt.Errorf("%d hosts: a lab has 1 to %d", c.Hosts, MaxHosts)
	case len(c.Racks) > 0 && in != c.Hosts:
		return fmt.Errorf("racks %v hold %d hosts, not %d", c.Racks, in, c.Hosts)
	}
	return nil
}

// rack says in which rack, from 0, the i-th host stands.
func (c Config) rack(i int) int {
	for r, n := range c.Racks {
		if i < n {
			return r
		}
		i -= n
	}
	return 0
}

// Close ends every process that still runs on the lab's hosts and takes the network down.
func (l *Lab) Close() error {
	return errors.Join(sweep(l.id), l.claim.release())
}

// Disk mounts a file system of so many bytes of memory at a new directory of Dir: a disk that can fill up.
func (l *Lab) Disk(name string, size int64) (dir string, err error) {
	dir = filepath.Join(l.Dir, name)
	return dir, l.mount(dir, fmt.Sprint(size))
}

func (l *Lab) mount(dir, size string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("virtswarm-netlab", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size="+size); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
	}
	return nil
}

// switchNS is the namespace of all switches: none of them is the machine's.
func (l *Lab) switchNS() string { return namespace(l.id, "switch") }

// core is the switch that joins the racks' switches.
const core = "core"

func rackSwitch(rack int) string { return fmt.Sprintf("rack%d", rack) }

// trunk names the two ends of a rack's link to the core: the first is at the rack's switch.
func trunk(rack int) (up, down string) { return fmt.Sprintf("up%d", rack), fmt.Sprintf("down%d", rack) }

func (l *Lab) switches(rate Rate) error {
	ns := l.switchNS()
	if err := run("ip", "netns", "add", ns); err != nil {
		return err
	}
	var b batch
	for r := range l.racks {
		b.add("link add %s type bridge", rackSwitch(r))
		b.add("link set %s up", rackSwitch(r))
	}
	if l.racks > 1 {
		b.add("link add %s type bridge", core)
		b.add("link set %s up", core)
		for r := range l.racks {
			up, down := trunk(r)
			b.add("link add %s type veth peer name %s", up, down)
			b.add("link set %s master %s up", up, rackSwitch(r))
			b.add("link set %s master %s up", down, core)
		}
	}
	if err := b.run(ns); err != nil || l.racks == 1 {
		return err
	}
	for r := range l.racks {
		if err := l.SetTrunk(r, rate); err != nil {
			return err
		}
	}
	return nil
}

// SetTrunk changes the rate of a rack's link to the other racks.
func (l *Lab) SetTrunk(rack int, rate Rate) error {
	up, down := trunk(rack)
	return errors.Join(limit(l.switchNS(), up, rate), limit(l.switchNS(), down, rate))
}

// Trunk counts what passed a rack's link to the other racks: sent is what left the rack.
func (l *Lab) Trunk(rack int) (Traffic, error) {
	up, _ := trunk(rack)
	return counters(l.switchNS(), up)
}

// Partition splits the hosts into sets of which none hears of another; hosts that are not named make one more set. It
// replaces the partition before; without sets all hear all.
func (l *Lab) Partition(sets ...[]*Host) error {
	side := make(map[*Host]int, len(l.Hosts))
	for i, set := range sets {
		for _, h := range set {
			side[h] = i + 1
		}
	}
	var errs []error
	for _, from := range l.Hosts {
		for _, to := range l.Hosts {
			if from != to {
				errs = append(errs, from.Mute(to, side[from] != side[to]))
			}
		}
	}
	return errors.Join(errs...)
}
