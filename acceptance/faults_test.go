package acceptance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// These tests do to real daemons on hosts of their own what happens to hosts: cables are pulled, disks fill up,
// machines stop. After each, every byte that was acknowledged is there, at every host, the replica target is met again,
// and the log says how long that took.

// quick are settings under which a host is missed soon. The race detector and a busy machine make the daemons slow:
// less than these would find healthy hosts dead.
const quick = "host_timeout: 3s\ngrace: 4s\nguests: {vsock: off}\nlog: {level: debug}\n"

// newNetLab starts n daemons h1, h2, ... as one cluster on hosts of a network lab. prepare may change them before.
func newNetLab(t *testing.T, n int, rate netlab.Rate, prepare func(*lab)) *lab {
	t.Helper()
	net, err := netlab.New(netlab.Config{Hosts: n, Rate: rate})
	if errors.Is(err, netlab.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{t: t, dir: net.Dir, config: filepath.Join(net.Dir, "virtswarm.yaml"), net: net}
	l.write(l.config, []byte(quick+noLibvirt))
	for _, at := range net.Hosts {
		h := l.newHost(at.Name, at.Addr+":7117")
		h.at = at
		l.hosts = append(l.hosts, h)
	}
	if prepare != nil {
		prepare(l)
	}
	l.startAll()
	return l
}

// listed is what the tests read of 'ls --json'.
type listed struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	Wanted int    `json:"copies_wanted"`
	Made   int    `json:"copies_made"`
}

func (h *host) ls() []listed {
	h.lab.t.Helper()
	var ls struct {
		Files []listed `json:"files"`
	}
	h.json(&ls, "ls")
	return ls.Files
}

// lacking are the files, of those acknowledged, that are not in the catalogue or lack a copy.
func lacking(ls []listed, files map[string]string) (names []string) {
	for name := range files {
		i := slices.IndexFunc(ls, func(v listed) bool { return v.Name == name })
		if i < 0 || ls[i].Made < ls[i].Wanted {
			names = append(names, name)
		}
	}
	return names
}

// intact wants every file, by its name, to be there as it was: all hosts see the same catalogue, which has each of them
// in as many copies as wanted; what each host holds is what it should be; and each can pull each file.
func (l *lab) intact(files map[string]string) {
	l.t.Helper()
	var first []listed
	sums := map[string]string{}
	for name, source := range files {
		sums[name] = l.sum(source)
	}
	for i, h := range l.others(nil) {
		if ls := h.ls(); i == 0 {
			first = ls
		} else if !slices.Equal(ls, first) {
			l.t.Errorf("%s sees %+v, another sees %+v", h.name, ls, first)
		}
		h.must("verify")
		for name := range files {
			out := l.out(h.name + strings.ReplaceAll(name, "/", "-"))
			h.must("pull", name, out)
			if l.sum(out) != sums[name] {
				l.t.Errorf("%s, pulled at %s, is not what was published", name, h.name)
			}
			l.check(os.Remove(out))
		}
	}
	if lack := lacking(first, files); len(lack) > 0 {
		l.t.Errorf("acknowledged and not there in every copy: %q", lack)
	}
}

// sparse makes a file of some shards with n random bytes at the beginning of each: much to place and little to move.
func (l *lab) sparse(name string, shards, n int64, seed byte) string {
	l.t.Helper()
	const shard = 64 << 20
	path := l.random(name, n, seed)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	l.check(err)
	defer f.Close()
	for i := int64(1); i < shards; i++ {
		_, err := io.CopyN(io.NewOffsetWriter(f, i*shard), rand.NewChaCha8([32]byte{seed, byte(i)}), n)
		l.check(err)
	}
	return path
}

// healed waits until so many hosts are alive and no shard lacks a copy, and logs how long after a moment that was.
func (l *lab) healed(at *host, alive int, since time.Time) {
	l.t.Helper()
	l.await(fmt.Sprintf("%d hosts and every copy", alive), func() bool {
		s := at.status()
		return !s.Staleness.Stale && s.HostsAlive == alive && s.UnderReplicatedFiles == 0
	})
	l.t.Logf("%d hosts and every copy again %.1f s after", alive, time.Since(since).Seconds())
}

// after waits; what a test does to a host has to last.
func after(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// The leader is cut off from all others while files are published, at its side and at theirs. The others go on; what
// the leader acknowledges nobody, and what was acknowledged before, during and after is there.
func TestLeaderCutOffDuringPublishes(t *testing.T) {
	t.Parallel()
	l := newNetLab(t, 5, 200e6, nil)
	l.voters(5)
	leader := l.leader(l.hosts[0])
	rest := l.others(leader)

	var mu sync.Mutex
	acknowledged := map[string]string{}
	var firstAfter time.Time // first acknowledgement of a publication that began after the cut
	var cut time.Time
	ctx, stop := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publish := func(h *host, seed byte) {
		publishing.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("%s/%d", h.name, i)
				source := l.random(h.name+"-"+fmt.Sprint(i), 2<<20+int64(i), seed+byte(i))
				began := time.Now()
				r := h.run("publish", source, name, "--replicas", "2")
				mu.Lock()
				if r.code == 0 {
					acknowledged[name] = source
					if !cut.IsZero() && began.After(cut) && h != leader && firstAfter.IsZero() {
						firstAfter = time.Now()
					}
				} else if r.code != 20 && r.code != 21 {
					t.Errorf("publish at %s: exit code %d: %s", h.name, r.code, r.stderr)
				}
				mu.Unlock()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	publish(leader, 100)
	publish(rest[0], 150)
	publish(rest[1], 200)
	l.await("some publications", func() bool { return count() > 5 })

	l.check(l.net.Partition([]*netlab.Host{leader.at}))
	mu.Lock()
	cut = time.Now()
	mu.Unlock()
	l.await("a publication after the cut", func() bool { mu.Lock(); defer mu.Unlock(); return !firstAfter.IsZero() })
	t.Logf("a publication was acknowledged %.1f s after the leader was cut off", firstAfter.Sub(cut).Seconds())
	n := count()
	l.await("more publications", func() bool { return count() >= n+3 })

	l.check(l.net.Partition())
	healed := time.Now()
	n = count()
	l.await("publications after the cut was healed", func() bool { return count() >= n+3 })
	stop()
	publishing.Wait()
	l.healed(leader, 5, healed)
	t.Logf("%d publications acknowledged", len(acknowledged))
	// Each host pulls some of them; together all of them.
	names := slices.Sorted(maps.Keys(acknowledged))
	some := map[string]string{}
	for _, name := range names[max(0, len(names)-3):] {
		some[name] = acknowledged[name]
	}
	l.intact(some)
	for i, name := range names {
		out := l.out(fmt.Sprint("all-", i))
		l.hosts[i%5].must("pull", name, out)
		l.same(acknowledged[name], out)
	}
}

// Two of five hosts die, the leader among them: with three copies nothing is lost and nothing is missing; the third
// copies are made again elsewhere, and when the dead come back all is as it was.
func TestTwoOfFiveDie(t *testing.T) {
	t.Parallel()
	l := newNetLab(t, 5, 400e6, nil)
	l.voters(5)
	files := map[string]string{}
	for i := range 3 {
		name := fmt.Sprintf("images/%d", i)
		files[name] = l.sparse(fmt.Sprint("image-", i), 3, 5<<20, byte(i))
		l.hosts[i].must("publish", files[name], name, "--replicas", "3")
	}
	leader := l.leader(l.hosts[0])
	dead := []*host{leader, l.others(leader)[1]}
	for _, h := range dead {
		h.kill()
	}
	died := time.Now()
	l.healed(l.others(nil)[0], 3, died)
	l.intact(files)
	for _, h := range dead {
		h.start()
	}
	l.healed(l.hosts[0], 5, time.Now())
	l.intact(files)
}

// A home's disk is full: what it cannot take the others hold, what it had it keeps, and once it has room again it takes
// its part.
func TestDiskFullWhileAHome(t *testing.T) {
	t.Parallel()
	const room, more = 100 << 20, 400 << 20
	l := newNetLab(t, 3, 400e6, func(l *lab) {
		_, err := l.net.Disk("h3", room) // its data directory
		l.check(err)
	})
	small := l.hosts[2]
	files := map[string]string{"kept": l.random("kept", 20<<20, 1)}
	small.must("publish", files["kept"], "kept", "--replicas", "all")
	files["big"] = l.random("big", 120<<20, 2)
	l.hosts[0].must("publish", files["big"], "big", "--replicas", "all", "--wait", "committed")
	l.await("the second copy", func() bool { return l.copies(l.hosts[0], "big")["h2"] == 2 })
	l.await("the full disk is noticed", func() bool { return strings.Contains(tail(filepath.Join(l.dir, "h3.log"), 1000), "no space left") })
	if s := l.hosts[0].status(); s.HostsAlive != 3 || s.UnderReplicatedFiles != 1 {
		t.Errorf("with a full disk: %+v", s)
	}
	out := l.out("still")
	small.must("pull", "kept", out)
	l.same(files["kept"], out)
	small.kill() // a full disk and a crash
	small.start()
	small.must("verify")

	grow := exec.Command("mount", "-o", fmt.Sprintf("remount,size=%d", more), small.data)
	if text, err := grow.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	grown := time.Now()
	l.healed(l.hosts[0], 3, grown)
	l.intact(files)
	l.hosts[0].kill()
	l.hosts[1].kill()
	for name, source := range files { // it has them itself
		out := l.out("alone" + name)
		small.must("pull", name, out)
		l.same(source, out)
	}
}

// stopTime is longer than any timeout between hosts.
const stopTime = 30 * time.Second

// A host stops for 30 s while the file is on its way to all: one that fetches, and the only one that has the file.
// Those that can go on do, and all hold the file in the end.
func TestStoppedInMidFetch(t *testing.T) {
	for _, who := range []string{"a fetcher", "the publisher"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			l := newNetLab(t, 4, 100e6, nil)
			l.voters(3)
			file := l.random("image", 60<<20, 3)
			publisher, stopped := l.hosts[0], l.hosts[2]
			if who == "the publisher" {
				stopped = publisher
			}
			publisher.must("publish", file, "image", "--replicas", "all", "--wait", "committed")
			l.await("a part of the file is there", func() bool { return l.hosts[2].metric(receivedBytes) > 10<<20 })
			stopped.signal(syscall.SIGSTOP)
			began := time.Now()
			if stopped != publisher {
				l.await("the others hold the file", func() bool {
					held := l.copies(publisher, "image")
					return held["h2"] == 1 && held["h4"] == 1
				})
				t.Logf("the others hold the file %.1f s after the stop", time.Since(began).Seconds())
			}
			after(t, time.Until(began.Add(stopTime)))
			stopped.signal(syscall.SIGCONT)
			l.healed(publisher, 4, time.Now())
			l.intact(map[string]string{"image": file})
		})
	}
}

// A cable is pulled in mid-fetch and plugged in again: the fetch goes on with what it had.
func TestCablePulledInMidFetch(t *testing.T) {
	t.Parallel()
	const size = 60 << 20
	l := newNetLab(t, 3, 100e6, nil)
	l.voters(3)
	file := l.random("image", size, 4)
	l.hosts[0].must("publish", file, "image", "--replicas", "all", "--wait", "committed")
	unlucky := l.hosts[2]
	l.await("a part of the file is there", func() bool { return unlucky.metric(receivedBytes) > 10<<20 })
	l.check(unlucky.at.Cut())
	l.await("the host counts as down", func() bool { return l.hosts[0].status().HostsAlive == 2 })
	l.healed(l.hosts[0], 2, time.Now())
	l.check(unlucky.at.Heal())
	l.healed(l.hosts[0], 3, time.Now())
	if received := unlucky.metric(receivedBytes); received > 1.25*size {
		t.Errorf("received %.0f bytes for a file of %d", received, int64(size))
	}
	l.intact(map[string]string{"image": file})
}
