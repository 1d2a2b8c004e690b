package hostd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

// The configuration file that is shipped names every key, with its default but for first_start.
func TestShippedConfigurationIsTheDefault(t *testing.T) {
	shipped, err := LoadConfig("../packaging/virtswarm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var def Config
	for _, c := range []*Config{&shipped, &def} {
		c.Name = "h"
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	shipped.Labels = nil
	if shipped.FirstStart != firstStartWait || def.FirstStart != firstStartFound {
		t.Errorf("first_start is %q as shipped and %q by default", shipped.FirstStart, def.FirstStart)
	}
	if got, want := shipped, def; got.Data != want.Data || got.Listen != want.Listen || got.Socket != want.Socket ||
		got.Weight != want.Weight || got.limits() != want.limits() || got.HostTimeout != want.HostTimeout || got.Grace != want.Grace ||
		got.ScrubEvery != want.ScrubEvery || got.ScrubRate != want.ScrubRate || got.Fetches != want.Fetches || got.KeepStrays != want.KeepStrays || got.Log != want.Log {
		t.Errorf("packaging/virtswarm.yaml gives %+v, the defaults are %+v", got, want)
	}
	text, err := os.ReadFile("../packaging/virtswarm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"data", "mount", "first_start", "listen", "advertise", "socket", "metrics", "name", "weight", "labels", "quota",
		"up", "down", "high", "low", "host_timeout", "grace", "scrub_every", "scrub_rate", "keep_strays", "fetches", "log", "level", "json"} {
		if !strings.Contains(string(text), key+":") {
			t.Errorf("packaging/virtswarm.yaml does not tell of %q", key)
		}
	}
}

func TestBadConfigurations(t *testing.T) {
	for _, c := range []struct{ yaml, about string }{
		{"wieght: 3", "wieght"},
		{"first_start: maybe", "first_start"},
		{"mount: srv/data", "mount"},
		{"data: relative", "data"},
		{"listen: nowhere", "listen"},
		{"advertise: h:1:2", "advertise"},
		{"metrics: x", "metrics"},
		{"advertise: ':7117'", "names no host"},
		{"advertise: 0.0.0.0:7117", "0.0.0.0"},
		{"advertise: '[::]:7117'", "::"},
		{"advertise: 224.0.0.1:7117", "224.0.0.1"},
		{"advertise: 127.0.0.1:0", "port"},
		{"advertise: 127.0.0.1:99999", "99999"},
		{"advertise: host name:7117", "host name"},
		{"name: two words", "name"},
		{"name: all", "all"},
		{"name: -x", "-x"},
		{"name: tag:web", "tag:web"},
		{"weight: 10001", "weight"},
		{"weight: -1", "weight"},
		{"quota: 5 parsecs", "5 parsecs"},
		{"quota: -5", "-5"},
		{"host_timeout: 1s", "host_timeout"},
		{"host_timeout: soon", "soon"},
		{"grace: 1ms", "grace"},
		{"up: fast", "fast"},
		{"down: -1M", "-1M"},
		{"high: 101%", "101%"},
		{"high: 80%\nlow: 80%", "low"},
		{"scrub_every: 1s", "scrub_every"},
		{"scrub_rate: 1", "scrub_rate"},
		{"fetches: 65", "fetches"},
		{"keep_strays: 10ms", "keep_strays"},
		{"keep_strays: -1h", "keep_strays"},
		{"log: {level: loud}", "log.level"},
		{"log: {colour: red}", "colour"},
		{"[1, 2", "virtswarm.yaml"},
	} {
		path := filepath.Join(t.TempDir(), "virtswarm.yaml")
		if err := os.WriteFile(path, []byte(c.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := LoadConfig(path)
		if err == nil {
			err = cfg.Validate()
		}
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.about) {
			t.Errorf("%q: %v, want ErrConfig that names %q", c.yaml, err, c.about)
		}
	}
}

func TestGoodConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "virtswarm.yaml")
	text := "quota: 500GiB\nhost_timeout: 90s\ngrace: 5m\nup: 200Mbit\nlow: 50%\nlabels: {rack: r1}\nname: hv-1\nlog: {json: true}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if want := (placement.Limits{Up: 25_000_000, Quota: 500 << 30, High: 90, Low: 50}); c.limits() != want {
		t.Errorf("limits %+v, want %+v", c.limits(), want)
	}
	if c.Grace != 5*time.Minute || c.HostTimeout != 90*time.Second || c.Labels["rack"] != "r1" || !c.Log.JSON || c.Log.Level != "info" {
		t.Errorf("%+v", c)
	}
}

func TestAdvertise(t *testing.T) {
	bound := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 5), Port: 7117}
	c := Config{}
	if a, _, err := c.advertise(bound); err != nil || a != "127.0.0.5:7117" {
		t.Errorf("bound to one address: %q, %v", a, err)
	}
	c.Advertise = "hv1.example:7000"
	if a, _, err := c.advertise(bound); err != nil || a != "hv1.example:7000" {
		t.Errorf("configured: %q, %v", a, err)
	}
}

// TestDataBehindALink: the directory is the one that the kernel finds, under whatever name.
func TestDataBehindALink(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Join(dir, "real/deep"), 0o700), os.Symlink("real/deep", filepath.Join(dir, "link")))
	}
	if err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]string{
		dir + "/link/../data": dir + "/real/data", dir + "/link/data": dir + "/link/data", dir + "//./data/": dir + "/data",
	} {
		c := Config{Data: data, Name: "hv1"}
		if err := c.Validate(); err != nil || c.Data != want {
			t.Errorf("%s is %s, want %s (%v)", data, c.Data, want, err)
		}
	}
}
