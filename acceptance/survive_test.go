package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// status is what the tests read of 'status --json'.
type status struct {
	Staleness struct {
		Stale bool `json:"stale"`
	} `json:"staleness"`
	Host struct {
		Name  string `json:"name"`
		State string `json:"state"`
	} `json:"host"`
	Leader *struct {
		Name string `json:"name"`
	} `json:"leader"`
	Voters               []string `json:"voters"`
	HostsAlive           int      `json:"hosts_alive"`
	UnderReplicatedFiles int      `json:"under_replicated_files"`
	Files                int      `json:"files"`
}

func (h *host) status() (s status) {
	h.lab.t.Helper()
	h.json(&s, "status")
	return s
}

// named returns the host with that name.
func (l *lab) named(name string) *host {
	l.t.Helper()
	i := slices.IndexFunc(l.hosts, func(h *host) bool { return h.name == name })
	if i < 0 {
		l.t.Fatalf("no host %q", name)
	}
	return l.hosts[i]
}

// leader waits until a host knows a leader that is among the living, and returns it.
func (l *lab) leader(at *host) *host {
	l.t.Helper()
	var leader *host
	l.await("a leader that "+at.name+" knows", func() bool {
		s := at.status()
		if s.Leader == nil || s.Staleness.Stale {
			return false
		}
		leader = l.named(s.Leader.Name)
		return leader.cmd != nil
	})
	return leader
}

// voters waits until so many hosts vote.
func (l *lab) voters(n int) {
	l.t.Helper()
	l.await(fmt.Sprintf("%d voters", n), func() bool { return len(l.hosts[0].status().Voters) == n })
	if l.hosts[0].daemon != "" { // of an older release, whose hosts all have the key from the start
		return
	}
	// The key of the authority follows the vote within seconds; without it nobody is admitted for a while.
	l.await("the voters hold the authority's key", func() bool {
		hold := 1 // the founder
		for _, h := range l.hosts[1:] {
			if p, err := os.ReadFile(filepath.Join(l.dir, h.name+".log")); err == nil && strings.Contains(string(p), "holds the key of a certificate authority") {
				hold++
			}
		}
		return hold >= n
	})
}

// others are the running hosts but one.
func (l *lab) others(but *host) (others []*host) {
	for _, h := range l.hosts {
		if h != but && h.cmd != nil {
			others = append(others, h)
		}
	}
	return others
}

// replicated waits until no file lacks a copy, as a host sees it.
func (l *lab) replicated(at *host) {
	l.t.Helper()
	l.await("every file has its copies", func() bool { return at.status().UnderReplicatedFiles == 0 })
}

// A file that was published with two copies survives its publisher, disk and all, and gets its second copy back.
func TestPublisherDiesAndLosesItsDisk(t *testing.T) {
	l := newLab(t, 4, "")
	l.voters(4 - 1) // an even number of voters would tolerate no more failures
	publisher := l.hosts[1]
	file := l.random("image", 150<<20, 1)
	publisher.must("publish", file, "images/a", "--replicas", "2")
	publisher.kill()
	l.check(os.RemoveAll(publisher.data))
	for _, h := range l.others(publisher) {
		out := l.out(h.name)
		h.must("pull", "images/a", out)
		l.same(file, out)
	}
	survivor := l.others(publisher)[0]
	l.await("the dead host counts as dead", func() bool { return survivor.status().HostsAlive == 3 })
	l.replicated(survivor)
}

// The same without anybody pulling: the hosts that are left make the second copies on their own.
func TestSecondCopiesComeBackOnTheirOwn(t *testing.T) {
	l := newLab(t, 4, "")
	l.voters(3)
	file := l.random("image", 150<<20, 2)
	l.hosts[3].must("publish", file, "images/a", "--replicas", "2")
	l.hosts[3].kill()
	l.check(os.RemoveAll(l.hosts[3].data))
	at := l.hosts[0]
	l.await("the dead host counts as dead", func() bool { return at.status().HostsAlive == 3 })
	l.replicated(at)
	held := 0
	for _, n := range l.copies(at, "images/a") {
		held += n
	}
	if held < 2*3 {
		t.Errorf("the hosts left hold %d shards, want two copies of three", held)
	}
	// With any one of the three gone too, the file is still whole.
	l.leader(at)
	gone := l.hosts[1]
	gone.kill()
	out := l.out("b")
	l.hosts[2].must("pull", "images/a", out)
	l.same(file, out)
}

// copies says how many shards of a file each live host holds.
func (l *lab) copies(at *host, name string) map[string]int {
	l.t.Helper()
	var show struct {
		Holdings []struct {
			Host   string `json:"host"`
			State  string `json:"state"`
			Shards int    `json:"shards"`
		} `json:"holdings"`
	}
	at.json(&show, "show", name)
	held := map[string]int{}
	for _, h := range show.Holdings {
		if h.State == "alive" {
			held[h.Host] = h.Shards
		}
	}
	return held
}

// The Raft leader dies in the middle of a publication: it completes, or fails clearly and can be repeated, and nothing
// that was acknowledged is lost.
func TestLeaderDiesDuringPublish(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	acknowledged := map[string]string{}
	for round, phase := range []string{"hashing", "committed", "replicating"} {
		leader := l.leader(l.hosts[0])
		publisher := l.others(leader)[0]
		name := fmt.Sprintf("images/%d", round)
		file := l.random(fmt.Sprint(round), 80<<20, byte(10+round))
		reached, done := publisher.follow(phase, "publish", file, name, "--replicas", "2")
		<-reached
		leader.kill()
		killed := time.Now()
		l.leader(publisher)
		t.Logf("killed while %s: a new leader %v after the old one died", phase, time.Since(killed).Round(time.Millisecond))
		r := <-done
		if r.code != 0 {
			t.Logf("killed while %s: the publication failed with %d: %s", phase, r.code, r.stderr)
			if r.code != 20 || !strings.Contains(r.stderr, "repeat") {
				t.Errorf("the failure is not a clear one")
			}
			publisher.must("publish", file, name, "--replicas", "2")
		}
		acknowledged[name] = file
		leader.start()
		l.voters(3)
	}
	for name, file := range acknowledged {
		for _, h := range l.hosts {
			out := l.out(h.name + filepath.Base(name))
			h.must("pull", name, out)
			l.same(file, out)
		}
	}
}

// follow starts the tool with --json. The first channel is closed when an event of that phase has come, or the tool has
// ended without one; the second gives the result.
func (h *host) follow(phase string, args ...string) (reached <-chan struct{}, done <-chan result) {
	h.lab.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "virtswarm"), append([]string{"--socket", h.socket, "--json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	h.lab.check(err)
	h.lab.check(cmd.Start())
	seen, ended := make(chan struct{}), make(chan result, 1)
	go func() {
		var all strings.Builder
		mark := sync.OnceFunc(func() { close(seen) })
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			all.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), `"phase":"`+phase+`"`) {
				mark()
			}
		}
		mark()
		cmd.Wait()
		ended <- result{all.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	}()
	return seen, ended
}

// A daemon that is killed while it fetches resumes: what it had received is there after the restart, and not fetched
// again.
func TestKilledFetcherResumes(t *testing.T) {
	l := newLab(t, 2, "")
	const size = 400 << 20
	file := l.random("image", size, 20)
	publisher, fetcher := l.hosts[0], l.hosts[1]
	publisher.must("publish", file, "images/a", "--replicas", "all", "--wait", "committed")
	held := 0.0
	for life := 1; life <= 3; life++ {
		var received float64
		l.await("some more of the file", func() bool {
			received = fetcher.metric(receivedBytes)
			return received > size/10 || held+received >= size
		})
		fetcher.kill()
		fetcher.start()
		now := fetcher.metric(recoveredBytes) // what this life found on its disk
		t.Logf("life %d: had %.0f MiB, received at least %.0f more; the next life begins with %.0f", life, held/(1<<20), received/(1<<20), now/(1<<20))
		if now < held+received {
			t.Errorf("life %d began with %.0f bytes and received %.0f, but the next begins with %.0f", life, held, received, now)
		}
		held = now
	}
	out := l.out("image")
	fetcher.must("pull", "images/a", out)
	l.same(file, out)
	if received := fetcher.metric(receivedBytes); held+received != size {
		t.Errorf("the last life began with %.0f bytes and received %.0f for a file of %d", held, received, size)
	}
}

// receivedBytes counts the bytes of chunks that came from other hosts.
const receivedBytes = "virtswarm_swarm_received_bytes_total"

// recoveredBytes is what the store found to be whole when it was opened.
const recoveredBytes = "virtswarm_store_found_bytes"

// stored finds the data file of the only content in a host's store.
func (h *host) stored() string {
	h.lab.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.data, "store", "files", "*", "data"))
	h.lab.check(err)
	if len(found) != 1 {
		h.lab.t.Fatalf("%s stores %d files, want one", h.name, len(found))
	}
	return found[0]
}

// flip changes one byte of a file behind the daemon's back.
func (l *lab) flip(path string, offset int64) {
	l.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	l.check(err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, offset)
	l.check(err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, offset)
	l.check(err)
}

// What a crash damaged is noticed at the start or at the next read, and never served.
func TestCrashDamageIsNeverServed(t *testing.T) {
	l := newLab(t, 2, "")
	file := l.random("image", 100<<20, 30)
	l.hosts[0].must("publish", file, "images/a", "--replicas", "all")
	helper, victim := l.hosts[0], l.hosts[1]
	victim.kill()
	for _, data := range []string{victim.stored(), helper.stored()} {
		for _, offset := range []int64{0, 50 << 20, 100<<20 - 1} {
			l.flip(data, offset) // in the helper's store too: nobody has these chunks
		}
	}
	l.check(os.Truncate(victim.stored(), 90<<20)) // and the end of the file is lost
	victim.start()
	r := victim.run("pull", "images/a", l.out("damaged"))
	if r.code != 22 && r.code != 23 {
		t.Errorf("pull of a file that is damaged everywhere: exit code %d: %s", r.code, r.stderr)
	}
	t.Logf("without a whole copy: exit code %d: %s", r.code, r.stderr)
	if exists(l.out("damaged")) {
		t.Error("the failed pull left its destination behind")
	}
	helper.kill()
	for _, offset := range []int64{0, 50 << 20, 100<<20 - 1} {
		l.flip(helper.stored(), offset) // as it was
	}
	helper.start()
	out := l.out("healed")
	victim.must("pull", "images/a", out)
	l.same(file, out)
}

// One flipped byte is noticed by a pull, by verify and by scrub, and healed from another host.
func TestFlippedByteIsNoticedAndHealed(t *testing.T) {
	l := newLab(t, 2, "")
	file := l.random("image", 30<<20, 40)
	l.hosts[0].must("publish", file, "images/a", "--replicas", "all")
	victim := l.hosts[1]
	data := victim.stored()

	l.flip(data, 12345678)
	out := l.out("pulled")
	victim.must("pull", "images/a", out)
	l.same(file, out)

	var check struct {
		Phase  string `json:"phase"`
		Bad    int    `json:"bad_chunks"`
		Healed int    `json:"healed_chunks"`
	}
	for i, verb := range [][]string{{"verify", "images/a"}, {"verify"}, {"scrub"}} {
		l.flip(data, int64(i)<<20)
		victim.json(&check, verb...)
		if check.Phase != "done" || check.Bad != 1 || check.Healed != 1 {
			t.Errorf("%v: %+v, want one bad chunk, healed", verb, check)
		}
		victim.json(&check, verb...)
		if check.Bad != 0 {
			t.Errorf("%v again: %+v, want none", verb, check)
		}
	}

	// The damaged host is the only source: the byte must not get out.
	l.flip(data, 20<<20)
	l.hosts[0].kill()
	newcomer := l.newHost("h3", strings.Replace(victim.addr, ".2:", ".3:", 1))
	l.hosts = append(l.hosts, newcomer)
	l.hosts[0].start()
	newcomer.join(l.hosts[0])
	l.hosts[0].signal(syscall.SIGSTOP)
	defer l.hosts[0].signal(syscall.SIGCONT)
	out = l.out("newcomer")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if r := newcomer.runContext(ctx, "pull", "images/a", out); r.code == 0 {
		l.same(file, out) // it had got that chunk before the stop
	} else if _, err := os.Stat(out); err == nil {
		t.Error("the failed pull left its destination behind")
	}
	l.hosts[0].signal(syscall.SIGCONT)
	os.Remove(out)
	newcomer.must("pull", "images/a", out)
	l.same(file, out)
}

func (h *host) signal(s syscall.Signal) {
	h.lab.t.Helper()
	h.lab.check(h.cmd.Process.Signal(s))
}

// When a majority is gone, reads go on and say that they are stale; a write fails clearly.
func TestWithoutQuorum(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	file := l.random("small", 1<<20, 50)
	l.hosts[0].must("publish", file, "a", "--replicas", "all")
	l.hosts[1].kill()
	l.hosts[2].kill()
	l.await("stale answers", func() bool { return l.hosts[0].status().Staleness.Stale })
	if r := l.hosts[0].must("ls"); !strings.Contains(r.stdout, "a") || !strings.Contains(r.stderr, "out of date") {
		t.Errorf("ls printed %q, and noted %q", r.stdout, r.stderr)
	}
	out := l.out("a")
	l.hosts[0].must("pull", "a", out)
	l.same(file, out)
	if r := l.hosts[0].run("rm", "a"); r.code != 20 {
		t.Errorf("rm without a quorum: exit code %d: %s", r.code, r.stderr)
	}
	l.hosts[1].start()
	l.leader(l.hosts[0])
	l.hosts[0].must("rm", "a")
}

// A leader that is told to stop passes its part on, ends with 0 and comes back.
func TestStopAndComeBack(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	file := l.random("a", 5<<20, 55)
	l.hosts[0].must("publish", file, "a", "--replicas", "all")
	leader := l.leader(l.hosts[0])
	other := l.others(leader)[0]
	if code := leader.stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
	other.must("publish", file, "b", "--replicas", "1")
	leader.start()
	if n := leader.metric("virtswarm_store_recovered_chunks_total"); n != 0 {
		t.Errorf("after a clean end, %v chunks had to be looked for", n)
	}
	out := l.out("b")
	leader.must("pull", "b", out)
	l.same(file, out)
}

// A daemon that is killed while it takes a file in leaves nothing of it behind, and takes it the next time.
func TestPublisherKilledWhilePublishing(t *testing.T) {
	l := newLab(t, 2, "")
	h := l.hosts[0]
	file := l.random("image", 500<<20, 57)
	incoming := filepath.Join(h.data, "store", "incoming", "*")
	done := make(chan result, 1)
	go func() { done <- h.run("publish", file, "image") }()
	l.await("the publication has begun", func() bool {
		found, err := filepath.Glob(incoming)
		l.check(err)
		return len(found) > 0
	})
	h.kill()
	if r := <-done; r.code != 19 {
		t.Errorf("the publication whose daemon died ended with %d: %s", r.code, r.stderr)
	}
	h.start()
	if left, err := filepath.Glob(incoming); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q %v", left, err)
	}
	h.refused(15, "image", "show", "image")
	h.must("publish", file, "image")
	out := l.out("image")
	l.hosts[1].must("pull", "image", out)
	l.same(file, out)
}
