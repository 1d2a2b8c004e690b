package hostd

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// publishing is longer than the copies of a new file may take before they count as missing.
const publishing = 10 * time.Minute

// finds waits until a host lists exactly these findings.
func (c *crowd) finds(h *crowdHost, want ...string) {
	c.t.Helper()
	var got []string
	defer func() {
		if c.t.Failed() {
			c.t.Logf("%s lists %q, want %q", h.cfg.Name, got, want)
		}
	}()
	c.eventually("findings at "+h.cfg.Name+": "+strings.Join(want, ", "), func() bool {
		r, err := h.control.Health(c.ctx(), &v1.HealthRequest{})
		if err != nil {
			c.t.Fatal(err)
		}
		got = nil
		for _, f := range r.GetFindings() {
			word := strings.ToLower(strings.TrimPrefix(f.GetSeverity().String(), "SEVERITY_")) + " " + f.GetKind()
			got = append(got, strings.TrimSpace(word+" "+f.GetSubject()))
		}
		slices.Sort(got)
		return slices.Equal(got, want) && len(r.GetSilent()) == 0
	})
}

// Hosts that go and come back, and files that move from host to host, are told alike by all hosts.
func TestHealthInACrowd(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		c.publish("a", 300<<10, 3)
		time.Sleep(publishing)
		c.finds(c.hosts[0])

		c.hosts[2].stop()
		c.finds(c.hosts[1], "warning copies-missing", "warning host-down hv3", "warning too-few-voters")
		c.finds(c.hosts[0], "warning copies-missing", "warning host-lost hv3", "warning too-few-voters")
		c.start(c.hosts[2])
		for _, h := range c.hosts {
			c.finds(h)
		}

		// A host that is drained holds what it holds until others do.
		quiet := func(*v1.DrainProgress) error { return nil }
		if err := c.hosts[1].control.Drain(c.ctx(), &v1.DrainRequest{Force: true}, quiet); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			c.finds(c.hosts[0])
			time.Sleep(time.Second)
		}
	})
}

// On a single host no file has the copies that it wants, and that is no news.
func TestHealthOfOneHost(t *testing.T) {
	inCrowd(t, 1, func(t *testing.T, c *crowd) {
		c.publish("a", 300<<10, 2)
		time.Sleep(2 * publishing)
		c.finds(c.hosts[0])
	})
}
