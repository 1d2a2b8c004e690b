package acceptance

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/acceptance/nested"
)

// random puts a file of n random bytes at a path in L1, and returns its SHA-256.
func (n *nestedLab) random(at string, size int, seed byte) string {
	n.t.Helper()
	p := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	from := filepath.Join(n.Dir, fmt.Sprintf("random-%d", seed))
	if err := os.WriteFile(from, p, 0o644); err != nil {
		n.t.Fatal(err)
	}
	n.Add(at, from)
	return fmt.Sprintf("%x", sha256.Sum256(p))
}

// overVsock is the script of L1: the daemon serves two guests and is killed while one pulls.
const overVsock = `set -e
trap 'cat log' EXIT
start() { virtswarmd --config /etc/virtswarm.yaml >>log 2>&1 & daemon=$!; }
sent() { wget -qO- http://127.0.0.1:9117/metrics | awk '$1 == "virtswarm_guest_sent_bytes_total" { printf "%d", $2 }'; }
publish() { virtswarm publish /files/$1 $2 --guests $3 --replicas 1 >>log 2>&1; }
link-echo listen vsock://:7043 &
start
virtswarm status --wait 2m >>log
publish small for/42 guest-42
publish small for/43 guest-43
publish small for/all all
publish small for/none none
publish big for/big guest-42
# Without what makes an emulated processor slow: string operations that it takes for fast, a fifth level of page tables.
cpu=max,erms=off,fsrm=off,la57=off,smap=off,smep=off,pku=off
guest 42 -cpu $cpu & first=$!
guest 43 -cpu $cpu & second=$!
until [ "$(sent)" -gt 4000000 ]; do sleep 0.2; done
kill -9 $daemon
wait $daemon || true
start
wait $first
echo "after its restart the daemon sent $(sent) bytes"
wait $second
`

// The scripts of the guests start few programs: that takes seconds. The agent is told nothing of where its host is.
// While the neighbour does its part the daemon may be killed, which is nothing to it.
const (
	puller = `echo sees $(virtswarm-agent ls | cut -d' ' -f1)
virtswarm-agent push /init x
echo "push: exit code $?"
virtswarm-agent ping -q -c 10 -i 0s
virtswarm-agent --json pull for/big /tmp/got
sha256sum /tmp/got`
	neighbour = `echo sees $(virtswarm-agent ls | cut -d' ' -f1)
virtswarm-agent pull for/42 /tmp/got
echo "pull for/42: exit code $?"
virtswarm-agent pull for/43 /tmp/got
sha256sum /tmp/got
link-echo dial vsock://2:7043`
)

// TestAgentOverVsock has the agent in two guests of one host, with no other way to it than their vsock devices: each
// gets what it may read and nothing else, and what one pulls survives that the daemon is killed.
func TestAgentOverVsock(t *testing.T) {
	t.Parallel()
	n := newNested(t)
	agent, echo := n.program("../cmd/virtswarm-agent"), n.program("./nested/echo")
	n.Add("/bin/virtswarmd", n.program("../cmd/virtswarmd"))
	n.Add("/bin/virtswarm", n.program("../cmd/virtswarm"))
	n.Add("/bin/link-echo", echo)
	n.AddText("/etc/virtswarm.yaml", noLibvirt+`qmp: [/run]
guests: {vsock: "on"}
name: l1
listen: 127.0.0.1:7117
metrics: 127.0.0.1:9117
`)
	const bigSize = 16 << 20
	small, big := n.random("/files/small", 300_000, 1), n.random("/files/big", bigSize, 2)
	files := map[string]string{"/bin/virtswarm-agent": agent, "/bin/link-echo": echo}
	n.AddGuest(nested.Guest{CID: 42, Memory: 192, Files: files, Script: puller})
	n.AddGuest(nested.Guest{CID: 43, Files: files, Script: neighbour})
	out := n.run(overVsock)
	for _, want := range []string{
		"[42] sees NAME for/42 for/all for/big\n", "[43] sees NAME for/43 for/all\n",
		"[42] push: exit code 5\n", "[42] vsock://2:7117: 10 round trips, ", "[42] " + big + "  /tmp/got\n",
		"[43] pull for/42: exit code 4\n", "[43] " + small + "  /tmp/got\n",
		"peer 43 true\n", "[43] echoed 1048576 bytes ", // both ways at once
	} {
		if !strings.Contains(out, "\n"+want) {
			t.Errorf("%q is not on the console", want)
		}
	}
	var said strings.Builder
	for _, line := range regexp.MustCompile(`(?m)^\[42\] (.*)$`).FindAllStringSubmatch(out, -1) {
		said.WriteString(line[1])
	}
	var p pulled
	if object := regexp.MustCompile(`\{.*\}`).FindString(said.String()); json.Unmarshal([]byte(object), &p) != nil {
		t.Errorf("guest 42 says of its pull %q", object)
	}
	if p.Links < 2 || p.Fetched != p.Data || p.Data != bigSize || p.Resumed != 0 {
		t.Errorf("want every chunk once, over two links or more: %+v", p)
	}
	if again := regexp.MustCompile(`after its restart the daemon sent (\d+) bytes`).FindStringSubmatch(out); again == nil {
		t.Error("it is not known what the daemon sent after its restart")
	} else if sent, err := strconv.Atoi(again[1]); err != nil || sent == 0 || sent > bigSize-1<<20 {
		t.Errorf("%s: want what was missing, of %d bytes", again[0], bigSize)
	}
	if strings.Contains(out, "panic: ") || strings.Contains(out, "fatal error: ") {
		t.Error("a program panicked")
	}
	t.Logf("%+v", p)
}
