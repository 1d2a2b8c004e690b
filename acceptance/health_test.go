package acceptance

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// finding is what the tests read of one.
type finding struct {
	Severity string `json:"severity"`
	Kind     string `json:"kind"`
	Subject  string `json:"subject"`
	Text     string `json:"text"`
	Next     string `json:"next"`
	Since    string `json:"since"`
	Host     string `json:"host"`
}

// health runs 'virtswarm health' at a host: its exit code, and what it found.
func (h *host) health() (code int, found []finding) {
	h.lab.t.Helper()
	r := h.run("health", "--json")
	var out struct {
		Findings []finding `json:"findings"`
	}
	if r.code > 2 {
		return r.code, nil
	}
	h.lab.check(json.Unmarshal([]byte(r.stdout), &out))
	for _, f := range out.Findings {
		if f.Text == "" || f.Next == "" || f.Since == "" {
			h.lab.t.Errorf("%s says too little: %+v", f.Kind, f)
		}
	}
	return r.code, out.Findings
}

// finds waits until a host lists a finding, and the exit code is what that makes it.
func (l *lab) finds(at *host, code int, severity, kind, subject string) {
	l.t.Helper()
	var last string
	l.await(fmt.Sprintf("%s %s %s at %s, exit code %d", severity, kind, subject, at.name, code), func() bool {
		got, found := at.health()
		for _, f := range found {
			if f.Severity == severity && f.Kind == kind && f.Subject == subject && got == code {
				return true
			}
		}
		if now := fmt.Sprint(got, found); now != last {
			l.t.Logf("%s: exit code %s", at.name, now)
			last = now
		}
		return false
	})
}

// well waits until a host lists no finding.
func (l *lab) well(at *host) {
	l.t.Helper()
	var last string
	l.await("all is well at "+at.name, func() bool {
		code, found := at.health()
		if now := fmt.Sprint(code, found); code != 0 && now != last {
			l.t.Logf("%s: exit code %s", at.name, now)
			last = now
		}
		return code == 0
	})
}

// patient starts n hosts that are not taken for lost while a test runs.
func patient(t *testing.T, n int) *lab {
	t.Helper()
	l := newLab(t, 0, "")
	l.write(l.config, []byte("host_timeout: 5s\ngrace: 1h\nlog: {level: debug}\n"+noLibvirt))
	net := network()
	for i := range n {
		l.hosts = append(l.hosts, l.newHost(fmt.Sprintf("h%d", i+1), fmt.Sprintf("%s.%d:7117", net, i+1)))
	}
	l.startAll()
	return l
}

// A host that is gone is a warning, a leader that is gone is critical, and both findings go when the hosts are back.
func TestHealthOfHosts(t *testing.T) {
	l := patient(t, 3)
	l.voters(3)
	at := l.hosts[0]
	l.well(at)
	if r := at.must("health"); r.stdout != "all is well\n" {
		t.Errorf("health printed %q", r.stdout)
	}

	l.hosts[2].kill()
	l.finds(at, 1, "warning", "host-down", "h3")
	r := at.run("health")
	if r.code != 1 || !strings.Contains(r.stdout, "WARNING host-down h3: ") || !strings.Contains(r.stdout, "  next:  start virtswarmd there") {
		t.Errorf("health ended with %d and printed:\n%s", r.code, r.stdout)
	}
	if n := at.metric("virtswarm_findings", `severity="warning"`, `kind="host-down"`); n != 1 {
		t.Errorf("virtswarm_findings counts %v hosts that are down", n)
	}
	if out := at.must("status").stdout; !strings.Contains(out, "host-down") || !strings.Contains(out, "virtswarm health") {
		t.Errorf("status does not end with the findings:\n%s", out)
	}

	l.hosts[1].kill()
	l.finds(at, 2, "critical", "no-leader", "")
	if r := at.run("health"); r.code != 2 || !strings.HasPrefix(r.stdout, "CRITICAL no-leader: ") {
		t.Errorf("health ended with %d and printed:\n%s", r.code, r.stdout)
	}

	l.hosts[1].start()
	l.finds(at, 1, "warning", "host-down", "h3")
	l.hosts[2].start()
	for _, h := range l.hosts {
		l.well(h)
	}
	at.kill()
	if code, _ := at.health(); code != 3 {
		t.Errorf("health without a daemon ended with %d", code)
	}
}

// A chunk that is damaged while no other host has it is critical until one is back and it is healed.
func TestHealthOfChunks(t *testing.T) {
	l := patient(t, 2)
	victim, helper := l.hosts[0], l.hosts[1] // of two hosts the first alone votes
	file := l.random("image", 30<<20, 60)
	victim.must("publish", file, "images/a", "--replicas", "all")
	l.well(victim)

	helper.kill()
	l.finds(victim, 1, "warning", "host-down", "h2")
	l.flip(victim.stored(), 12345678)
	done := make(chan result, 1)
	go func() { done <- victim.run("verify", "images/a") }() // tries to heal it for a while
	l.finds(victim, 2, "critical", "damaged-chunks", "images/a")
	l.finds(victim, 2, "critical", "content-unavailable", "")
	if n := victim.metric("virtswarm_findings", `severity="critical"`, `kind="damaged-chunks"`); n != 1 {
		t.Errorf("virtswarm_findings counts %v files with damage", n)
	}

	helper.start()
	<-done
	l.well(victim)
	l.well(helper)
	out := l.out("image")
	victim.must("pull", "images/a", out)
	l.same(file, out)
}
