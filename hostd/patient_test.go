package hostd

import (
	"bytes"
	"testing"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// TestPullWaitsForHoldersThatStart: after all hosts lost their power together, the first to be back is asked for a file
// that others have.
func TestPullWaitsForHoldersThatStart(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		id, want := c.publish("image", 3<<20, 1)
		home := c.hosts[0] // its publisher, if it is the home too
		if r := c.homesOf(id); r[0] != home.self {
			home = c.home(id)
		}
		for _, h := range c.hosts {
			c.eventually("every host knows that the home holds it", func() (told bool) {
				h.node.View(func(s *placement.State) {
					for _, holder := range s.Holders(id) {
						told = told || holder.Host == home.self
					}
				})
				return told
			})
		}
		var first *crowdHost
		for _, h := range c.hosts {
			h.stop()
			if h != home && (first == nil || h == c.hosts[0]) {
				first = h
			}
		}
		// What the publisher has beyond its duty is cache; nobody but the home is to have it now.
		for _, h := range c.hosts {
			if h != home {
				if err := h.disk.RemoveAll("/data/store"); err != nil {
					t.Fatal(err)
				}
			}
		}
		pull := func(dest string) error {
			return first.control.Pull(c.ctx(), &v1.PullRequest{Name: "image", Dest: dest}, func(*v1.PullProgress) error { return nil })
		}
		c.start(first)
		pulled := make(chan error, 1)
		go func() { pulled <- pull("/image") }()
		time.Sleep(15 * time.Second)
		select {
		case err := <-pulled:
			t.Fatalf("the pull ended before a holder was there: %v", err)
		default:
		}
		c.start(home)
		if err := <-pulled; err != nil {
			t.Fatalf("the pull: %v", err)
		}
		if got, err := disk.ReadFile(first.disk, "/image", 64<<20); err != nil || !bytes.Equal(got, want) {
			t.Errorf("pulled %d bytes, %v", len(got), err)
		}

		// It is patience and not faith: a holder that does not come ends it.
		home.stop()
		first.stop()
		if err := first.disk.RemoveAll("/data/store"); err != nil {
			t.Fatal(err)
		}
		c.start(first)
		began := time.Now()
		if err := pull("/again"); reason.Of(err) != reason.NoHolder {
			t.Errorf("without a holder: %v", err)
		}
		if took := time.Since(began); took < comingPatience-time.Second || took > comingPatience+time.Minute {
			t.Errorf("it waited %s", took)
		}
	})
}
