package hostd

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// waitingHost is a host of no cluster, at real sockets, with a client of its local API.
func waitingHost(t *testing.T, name string) (*Host, *api.Client, func() error) {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{
		Data: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Socket: filepath.Join(dir, "s"), Name: name, FirstStart: firstStartWait,
		Libvirt: LibvirtConfig{noLibvirt},
	}
	ready := make(chan struct{})
	h, err := New(t.Context(), cfg, Options{Ready: func() { close(ready) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	<-ready
	client := api.NewUnixClient(cfg.Socket)
	t.Cleanup(client.Close)
	return h, client, stop
}

func TestWaitThenInit(t *testing.T) {
	h, client, _ := waitingHost(t, "w")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := client.Control.Status(ctx, &v1.StatusRequest{})
	if e := api.AsError(err); e.Reason != reason.NoCluster || !strings.Contains(e.Next(), "virtswarm init") {
		t.Errorf("status of a host of no cluster: %v, next: %s", err, e.Next())
	}
	prepare := func(needs string) error {
		xml := "<domain><name>d</name><uuid>11111111-1111-4111-8111-111111111111</uuid><metadata><v:host xmlns:v='urn:virtswarm:domain:1'>" +
			needs + "</v:host></metadata></domain>"
		s, err := client.Control.Prepare(ctx, &v1.PrepareRequest{Domain: "d", Operation: "prepare", Xml: []byte(xml)})
		if err != nil {
			return err
		}
		defer s.Close()
		for s.Receive() {
		}
		return s.Err()
	}
	if err := prepare(""); err != nil {
		t.Errorf("a domain that needs nothing may not start: %v", err)
	}
	// Of many that want the cluster made at once, one does it.
	var made sync.WaitGroup
	answers := make(chan error, 8)
	for range cap(answers) {
		made.Go(func() {
			_, err := client.Setup.Init(ctx, &v1.InitRequest{})
			answers <- err
		})
	}
	made.Wait()
	close(answers)
	won := 0
	for err := range answers {
		if err == nil {
			won++
		} else if e := api.AsError(err); e.Reason == reason.Usage && !strings.Contains(e.Error(), h.id.Cluster()) {
			t.Errorf("the refusal %q does not name the cluster", e)
		}
	}
	if won != 1 {
		t.Errorf("%d calls made a cluster", won)
	}
	s, err := client.Control.Status(ctx, &v1.StatusRequest{})
	if err != nil || s.GetClusterId() != h.id.Cluster() {
		t.Errorf("status after init: %v, %v", s, err)
	}
	if _, err := client.Setup.JoinCluster(ctx, &v1.JoinClusterRequest{Address: "127.0.0.1:1", Token: "x"}); !strings.Contains(api.AsError(err).Error(), h.id.Cluster()) {
		t.Errorf("join at a member: %v", err)
	}
}

// A host that waits ends when it is told to, and leaves a directory that waits again.
func TestWaitEnds(t *testing.T) {
	h, _, stop := waitingHost(t, "w")
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := pki.Load(h.fs, h.pkiDir()); !errors.Is(err, pki.ErrNoIdentity) {
		t.Errorf("the host has an identity: %v", err)
	}
}

// A failed join leaves nothing behind, and a waiting host waits on.
func TestWaitAfterFailedJoin(t *testing.T) {
	h, client, _ := waitingHost(t, "w")
	other, otherClient, _ := waitingHost(t, "other")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := otherClient.Setup.Init(ctx, &v1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	token, err := otherClient.Control.CreateToken(ctx, &v1.CreateTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA("another")
	if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		addr, token string
		reason      reason.Reason
	}{
		"no address":               {"nowhere", token.GetToken(), reason.Usage},
		"nobody answers":           {"127.0.0.1:1", token.GetToken(), reason.Unreachable},
		"no token":                 {other.advertise, "vst1.x", reason.BadToken},
		"token of another cluster": {other.advertise, newToken(t, ca).Encode(), reason.NotMember},
		"unknown token":            {other.advertise, newToken(t, other.id.CA()).Encode(), reason.BadToken},
	} {
		_, err := client.Setup.JoinCluster(ctx, &v1.JoinClusterRequest{Address: tt.addr, Token: tt.token})
		if got := api.AsError(err).Reason; err == nil || got != tt.reason {
			t.Errorf("%s: %v, want %v", what, err, tt.reason)
		}
		for _, left := range []string{h.pkiDir(), h.newPKIDir(), h.joiningMark(), h.settingsPath()} {
			if exists(h.fs, left) {
				t.Errorf("%s: left behind: %s", what, left)
			}
		}
	}
	r, err := client.Setup.JoinCluster(ctx, &v1.JoinClusterRequest{Address: other.advertise, Token: token.GetToken()})
	if err != nil || r.GetClusterId() != other.id.Cluster() {
		t.Fatalf("join: %v, %v", r, err)
	}
	if _, err := client.Control.Status(ctx, &v1.StatusRequest{}); err != nil {
		t.Errorf("status after the join: %v", err)
	}
}

// Wherever a daemon is killed in init, or in the join of a new host, the next start has no identity or one that works.
func TestKilledWhileSettingUp(t *testing.T) {
	for _, joins := range []bool{false, true} {
		for step, done := 1, false; !done; step++ {
			inCrowd(t, 1, func(t *testing.T, c *crowd) {
				h := &crowdHost{disk: disktest.NewMemory(1 << 30), cfg: Config{
					Data: "/data", Listen: "hv2:7117", Advertise: "hv2:7117", Name: "hv2", Libvirt: LibvirtConfig{noLibvirt},
				}}
				faulty, err := disktest.NewFault(h.disk, "/attic", uint64(step))
				if err != nil {
					t.Fatal(err)
				}
				if err := h.disk.MkdirAll("/data", 0o700); err != nil {
					t.Fatal(err)
				}
				faulty.KillAt(step)
				token := c.token(c.hosts[0])
				plug := c.fabric.Plug("hv2")
				host := &Host{can: placement.Newest, cfg: h.cfg, fs: faulty, network: plug, log: c.hosts[0].log, port: c.listens(plug, "hv2:7117"), advertise: "hv2:7117"}
				if err := host.cfg.Validate(); err != nil {
					t.Fatal(err)
				}
				if joins {
					done = host.join(c.ctx(), "hv1:7117", token) == nil
				} else {
					done = host.found() == nil
				}
				plug.Unplug(false)
				faulty.Kill()
				if err := faulty.PowerOff(); err != nil {
					t.Fatal(err)
				}
				again := &Host{cfg: host.cfg, fs: h.disk, log: host.log}
				switch id, err := again.loadIdentity(); {
				case errors.Is(err, pki.ErrNoIdentity):
				case err != nil:
					t.Errorf("killed at step %d: %v", step, err)
				default:
					if may, err := again.mayResume(id); !may || err != nil {
						t.Errorf("killed at step %d, the host may go on: %v, %v", step, may, err)
					}
					if joins != (id.Cluster() == c.hosts[0].id.Cluster()) {
						t.Errorf("killed at step %d, the host is of the wrong cluster", step)
					}
				}
				if joins {
					h.cfg.Join, h.cfg.Token = "hv1:7117", token
				}
				c.hosts = append(c.hosts, h)
				c.start(h)
				want := 1
				if joins {
					want = 2
				}
				c.eventually("it works", func() bool { return len(c.members(h)) == want })
			})
			if t.Failed() || step > 100 {
				t.Fatalf("at step %d", step)
			}
		}
	}
}

// newToken makes a token that no catalogue knows, by the authority's own key.
func newToken(t *testing.T, ca *pki.CA) pki.Token {
	t.Helper()
	token, err := ca.NewToken(time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
