package hostd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// startAnew makes all hosts a new cluster that has nothing of the old one but the stores.
func (c *crowd) startAnew() {
	c.t.Helper()
	for _, h := range c.hosts {
		h.stop()
		if err := errors.Join(h.disk.RemoveAll("/data/raft"), h.disk.RemoveAll("/data/pki")); err != nil {
			c.t.Fatal(err)
		}
	}
	for i, h := range c.hosts {
		h.cfg.Join, h.cfg.Token = "", ""
		if i > 0 {
			c.invite(h)
		}
		c.start(h)
		c.eventually("the host is a member", func() bool { return len(c.members(h)) == i+1 })
	}
}

// invite gives a host a token of the first one.
func (c *crowd) invite(h *crowdHost) {
	c.t.Helper()
	token, err := c.hosts[0].control.CreateToken(c.ctx(), &v1.CreateTokenRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	h.cfg.Join, h.cfg.Token = "hv1:7117", token.GetToken()
}

// wantPulled pulls a version (no id: the newest) at every host and compares it.
func (c *crowd) wantPulled(name, id string, want []byte) {
	c.t.Helper()
	for _, h := range c.hosts {
		dest := filepath.Join("/", fmt.Sprintf("pulled.%x", content.Sum([]byte(name+id))))
		if err := h.control.Pull(c.ctx(), &v1.PullRequest{Name: name, Id: id, Dest: dest}, func(*v1.PullProgress) error { return nil }); err != nil {
			c.t.Fatalf("pull %s at %s: %v", name, h.cfg.Name, err)
		}
		got, err := disk.ReadFile(h.disk, dest, 64<<20)
		if err != nil || !bytes.Equal(got, want) {
			c.t.Fatalf("pulled %s at %s: %d bytes, %v", name, h.cfg.Name, len(got), err)
		}
		if err := h.disk.Remove(dest); err != nil {
			c.t.Fatal(err)
		}
	}
}

// names is what the catalogue has: each name with its versions, oldest first.
func (c *crowd) names() string {
	var all []string
	c.hosts[0].node.View(func(s *placement.State) {
		for _, f := range s.Names("") {
			text := f.Name
			for _, v := range f.Versions {
				text += fmt.Sprintf(" %d:%d:%s", v.Size>>20, v.Replicas, v.Guests)
			}
			all = append(all, text)
		}
	})
	return strings.Join(all, ", ")
}

func TestStraysAreAdopted(t *testing.T) {
	inCrowd(t, 3, func(t *testing.T, c *crowd) {
		old, wantOld := c.publish("a", 3<<20, 2)
		_, wantNew := c.publish("a", 2<<20, 1)
		c.publish("alias", 2<<20, 2)
		b, wantB := c.publish("b", 1<<20, 2)
		c.startAnew()

		own, err := c.hosts[0].control.Strays(c.ctx(), &v1.StraysRequest{})
		if err != nil || len(own.GetStrays()) != 3 {
			t.Fatalf("strays here: %v, %v", own, err)
		}
		all, err := c.hosts[1].control.Strays(c.ctx(), &v1.StraysRequest{All: true})
		if err != nil || len(all.GetStrays()) < 5 || len(all.GetSilent()) > 0 {
			t.Fatalf("strays everywhere: %v, %v", all, err)
		}
		for _, s := range all.GetStrays() {
			if len(s.GetNames()) == 0 || s.GetCluster() == "" || s.GetShards() != 1 || s.GetUntil() <= s.GetSince() {
				t.Errorf("shown as %v", s)
			}
		}

		adopt := func(req *v1.AdoptRequest) (*v1.AdoptResponse, error) { return c.hosts[2].control.Adopt(c.ctx(), req) }
		if _, err := adopt(&v1.AdoptRequest{Which: []string{"nothing"}}); api.ReasonOf(err) != reason.NotFound {
			t.Errorf("adopt what is not there: %v", err)
		}
		if _, err := adopt(&v1.AdoptRequest{Which: []string{"a"}, As: "x"}); api.ReasonOf(err) != reason.Usage {
			t.Errorf("adopt two under one name: %v", err)
		}
		if r, err := adopt(&v1.AdoptRequest{Which: []string{b.String()[:12]}, As: "saved/b", Replicas: new(uint32(3))}); err != nil || r.GetEntered() != 1 {
			t.Fatalf("adopt one by its id: %v, %v", r, err)
		}
		r, err := adopt(&v1.AdoptRequest{All: true})
		if err != nil || r.GetEntered() != 3 || r.GetRefused() != 0 {
			t.Fatalf("adopt all: %v, %v", r, err)
		}
		if got := c.names(); got != "a 3:2:none 2:1:none, alias 2:2:none, saved/b 1:3:none" {
			t.Errorf("the catalogue has %s", got)
		}
		c.wantPulled("a", "", wantNew)
		c.wantPulled("a", old.String(), wantOld)
		c.wantPulled("alias", "", wantNew)
		c.wantPulled("saved/b", "", wantB)
		if left, err := c.hosts[0].control.Strays(c.ctx(), &v1.StraysRequest{All: true}); err != nil || len(left.GetStrays()) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

// TestAdoptingIsCareful: what was published since hides an older version, and is not hidden by a newer one.
func TestAdoptingIsCareful(t *testing.T) {
	inCrowd(t, 1, func(t *testing.T, c *crowd) {
		c.publish("a", 1<<20, 1)
		c.startAnew()
		time.Sleep(time.Second) // times in the catalogue are in seconds
		c.publish("a", 2<<20, 1)
		if r, err := c.hosts[0].control.Adopt(c.ctx(), &v1.AdoptRequest{Which: []string{"a"}}); err != nil || r.GetEntered() != 1 {
			t.Fatalf("adopt an older one: %v, %v", r, err)
		}
		if got := c.names(); got != "a 1:1:none 2:1:none" {
			t.Errorf("the catalogue has %s", got)
		}
		c.startAnew()
		if _, err := c.hosts[0].node.Apply(c.ctx(), placement.Command{Adopt: &placement.Adopt{Publish: placement.Publish{
			Name: "a", ID: content.Sum([]byte("x")), Size: 1, DataBytes: 1, ChunkSize: content.MinChunkSize, Shards: 1, Replicas: 1, Publisher: c.hosts[0].self, At: 1,
		}}}); err != nil {
			t.Fatal(err)
		}
		r, err := c.hosts[0].control.Adopt(c.ctx(), &v1.AdoptRequest{All: true})
		if err != nil || r.GetRefused() != 2 || reason.Reason(r.GetAdopted()[0].GetReason()) != reason.DestExists || !strings.Contains(r.GetAdopted()[0].GetRefused(), "`as` NAME") {
			t.Errorf("adopt newer ones: %v, %v", r, err)
		}
	})
}

func TestSavedCatalogueIsRestored(t *testing.T) {
	inCrowd(t, 2, func(t *testing.T, c *crowd) {
		old, wantOld := c.publish("a", 3<<20, 2)
		_, wantNew := c.publish("a", 2<<20, 1)
		_, wantB := c.publish("b", 1<<20, 2)
		err := c.hosts[0].control.Distribute(c.ctx(), &v1.DistributeRequest{Name: "a", Hosts: []string{"hv2"}}, func(*v1.DistributeProgress) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		var saved bytes.Buffer
		var stale *v1.Staleness
		err = c.hosts[1].control.SaveCatalogue(c.ctx(), &v1.SaveCatalogueRequest{}, func(p *v1.SaveCatalogueChunk) error {
			if p.GetStaleness() != nil {
				stale = p.GetStaleness()
			}
			saved.Write(p.GetData())
			return nil
		})
		if err != nil || stale == nil || stale.GetStale() {
			t.Fatalf("save: %v, %v", stale, err)
		}
		c.startAnew()
		path := filepath.Join(t.TempDir(), "catalogue")
		restore := func(p []byte, dry bool) (*v1.RestoreCatalogueResponse, error) {
			if err := os.WriteFile(path, p, 0o600); err != nil {
				t.Fatal(err)
			}
			return c.hosts[0].control.RestoreCatalogue(c.ctx(), &v1.RestoreCatalogueRequest{Path: path, DryRun: dry})
		}
		flipped := bytes.Clone(saved.Bytes())
		flipped[len(flipped)/2] ^= 1
		for _, bad := range [][]byte{nil, []byte("nonsense"), saved.Bytes()[:saved.Len()/2], saved.Bytes()[:saved.Len()-1], flipped} {
			if r, err := restore(bad, false); api.ReasonOf(err) != reason.DamagedData {
				t.Errorf("restore %d bytes: %v, %v", len(bad), r, err)
			}
		}
		if r, err := restore(saved.Bytes(), true); err != nil || r.GetEntered() != 3 || r.GetRestored()[0].GetMissingShards() != 0 || c.names() != "" {
			t.Errorf("a dry run: %v, %v; the catalogue has %s", r, err, c.names())
		}
		r, err := restore(saved.Bytes(), false)
		if err != nil || r.GetEntered() != 3 || r.GetRefused() != 0 || r.GetVersions() != 3 || r.GetNames() != 2 {
			t.Fatalf("restore: %v, %v", r, err)
		}
		if got := c.names(); got != "a 3:2:none 2:1:none, b 1:2:none" {
			t.Errorf("the catalogue has %s", got)
		}
		c.wantPulled("a", "", wantNew)
		c.wantPulled("a", old.String(), wantOld)
		c.wantPulled("b", "", wantB)
		c.hosts[0].node.View(func(s *placement.State) {
			v, _ := s.Lookup("a", content.Digest{})
			if held, _ := s.Content(v.ID); len(held.Targets.Hosts) != 1 || held.Targets.Hosts[0] != c.hosts[1].self {
				t.Errorf("ordered to %+v", held.Targets)
			}
		})
		c.publish("b", 4<<20, 1)
		again, err := restore(saved.Bytes(), false)
		if err != nil || again.GetEntered() != 0 || again.GetPresent() != 3 || c.names() != "a 3:2:none 2:1:none, b 1:2:none 4:1:none" {
			t.Errorf("again: %v, %v; the catalogue has %s", again, err, c.names())
		}
	})
}

// TestRejoinedHostHasItsFiles: a host that left finds in its store what the catalogue still names.
func TestRejoinedHostHasItsFiles(t *testing.T) {
	inCrowd(t, 2, func(t *testing.T, c *crowd) {
		id, _ := c.publish("a", 1<<20, 2)
		h := c.hosts[1]
		if err := h.control.Leave(c.ctx(), &v1.LeaveRequest{Force: true}, func(*v1.LeaveProgress) error { return nil }); err != nil {
			t.Fatal(err)
		}
		h.stop()
		c.invite(h)
		c.start(h)
		c.eventually("it says that it holds the file", func() (ok bool) {
			c.hosts[0].node.View(func(s *placement.State) { ok = s.Held(h.self, id).All() })
			return ok
		})
		if _, received := h.swarm.Moved(); received != 0 {
			t.Errorf("it fetched %d bytes", received)
		}
		if r, err := h.control.Strays(c.ctx(), &v1.StraysRequest{}); err != nil || len(r.GetStrays()) != 0 {
			t.Errorf("strays: %v, %v", r, err)
		}
	})
}
