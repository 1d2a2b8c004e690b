package hostd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/goccy/go-yaml"

	"github.com/virtswarm/virtswarm/hostd/keeper"
	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Defaults of a Config. The timings suit a LAN; Raft's own stand in package raft.
const (
	DefaultData        = "/var/lib/virtswarm"
	DefaultListen      = ":7117"
	DefaultHostTimeout = 10 * time.Second
	DefaultGrace       = 10 * time.Minute
	DefaultScrubEvery  = 7 * 24 * time.Hour
	DefaultScrubRate   = Bytes(100 << 20)
	// DefaultFetches bounds how many files a host fetches at once on its own account: enough to hide one slow
	// file behind others, few enough that each gets a fair rate.
	DefaultFetches = 4
	// maxNameLen bounds a host's name: a DNS name is no longer.
	maxNameLen = 253
	// minHostTimeout keeps a busy leader from calling a healthy host dead: Raft's own heartbeat is a second.
	minHostTimeout = 2 * time.Second
)

// ErrConfig marks a configuration that cannot be used; the text names the key and what would be right.
var ErrConfig = reason.Sentinel(reason.InvalidConfig, "invalid configuration")

// Config says how one daemon runs. The zero value of each field stands for its default; Validate fills them in.
// The YAML keys are the whole configuration: an unknown one is an error.
type Config struct {
	// Data is the directory that holds everything: certificates, catalogue, stored files.
	Data string `yaml:"data"`
	// Mount, if set, is a mount point that must be mounted before Data is used. What /etc/fstab names at Data or above it
	// must be mounted in any case.
	Mount string `yaml:"mount"`
	// FirstStart says what a host that is of no cluster does without Join: it founds one (the default), or waits until an
	// operator says init or join.
	FirstStart string `yaml:"first_start"`
	// Listen is the address and TCP port of the one port that other hosts reach.
	Listen string `yaml:"listen"`
	// Advertise is the host:port that other hosts use to reach Listen. By default Listen, with this machine's
	// first global address when Listen names none.
	Advertise string `yaml:"advertise"`
	// Socket is the local API's unix socket.
	Socket string `yaml:"socket"`
	// Metrics, if set, is an address that serves /metrics without TLS; say 127.0.0.1:9117.
	Metrics string `yaml:"metrics"`
	// Name is what operators call this host; unique in the cluster. By default the machine's host name.
	Name string `yaml:"name"`
	// HostTimeout is how long a host may be out of the leader's reach before its copies do not count any more; Grace is
	// how long after that its shards are rebuilt elsewhere. Those of the host that leads count.
	HostTimeout time.Duration `yaml:"host_timeout"`
	Grace       time.Duration `yaml:"grace"`

	// What follows, up to Low, is what the catalogue is told of this host at its first start, and again when the file
	// was edited; in between, 'virtswarm host set' changes it while the host runs.

	// Weight is this host's share of the files relative to other hosts, 1 to 10000; 100 by default.
	Weight uint32 `yaml:"weight"`
	// Labels say where the host stands, such as rack: r1.
	Labels map[string]string `yaml:"labels"`
	// Up and Down bound what goes to and comes from other hosts; 0 is no limit.
	Up   Rate `yaml:"up"`
	Down Rate `yaml:"down"`
	// Quota bounds the bytes of stored file data; 0 leaves it to the disk.
	Quota Bytes `yaml:"quota"`
	// High and Low are the parts of the quota at which eviction begins and ends; 90% and 80% by default.
	High Percent `yaml:"high"`
	Low  Percent `yaml:"low"`

	// ScrubEvery is how often all stored files are read and checked; ScrubRate bounds the bytes read a second.
	ScrubEvery time.Duration `yaml:"scrub_every"`
	ScrubRate  Bytes         `yaml:"scrub_rate"`
	// KeepStrays is how long a content is kept that no entry of the catalogue names.
	KeepStrays time.Duration `yaml:"keep_strays"`
	// Fetches is how many files this host fetches at once on its own account, 1 to 64.
	Fetches int `yaml:"fetches"`
	// Libvirt says where this host's domains are seen; QMP, which QEMUs that libvirt does not manage are: directories of
	// QMP sockets, or sockets.
	Libvirt LibvirtConfig `yaml:"libvirt"`
	QMP     []string      `yaml:"qmp"`
	// Hook is what 'virtswarm hook' goes by; it reads the file itself, as it must also when the daemon does not run.
	Hook HookConfig `yaml:"hook"`
	// Guests says by which ways the guests of this host may come.
	Guests GuestsConfig `yaml:"guests"`
	// Log says how much is logged, and in which form.
	Log LogConfig `yaml:"log"`

	// Join and Token admit a new host to the cluster that answers at Join. Join alone tells a member where to look for
	// another one, after their addresses have changed. They are flags alone: a token is used once and has no place in a
	// file.
	Join  string `yaml:"-"`
	Token string `yaml:"-"`
}

// LogConfig chooses the log's level (trace, debug, info, warn, error) and form (JSON lines or text).
type LogConfig struct {
	Level string `yaml:"level"`
	JSON  bool   `yaml:"json"`
}

// LibvirtConfig says which libvirt is asked: URI, libvirt's default if empty, or "none".
type LibvirtConfig struct {
	URI string `yaml:"uri"`
}

// HookConfig says what happens to a domain whose files do not come: OnFailure is refuse (the default) or allow,
// Deadline how long they may take.
type HookConfig struct {
	OnFailure string        `yaml:"on_failure"`
	Deadline  time.Duration `yaml:"deadline"`
}

// GuestsConfig says by which ways guests come. VSock is auto (the default: if the host has /dev/vhost-vsock), on or
// off. Hybrid are the paths of VMMs' vsock sockets, with {uuid} or {name} in a domain's place. Shared memory needs no
// word here; ShmDir is where its files are, and is another than /dev/shm in tests alone.
type GuestsConfig struct {
	VSock  string   `yaml:"vsock"`
	Hybrid []string `yaml:"hybrid"`
	ShmDir string   `yaml:"-"`
}

// What Config.FirstStart may be.
const (
	firstStartFound = "found"
	firstStartWait  = "wait"
)

// What GuestsConfig.VSock may be.
const (
	guestsAuto = "auto"
	guestsOn   = "on"
	guestsOff  = "off"
)

// Bytes is a size in bytes; in YAML a number or a text such as 500GiB.
type Bytes int64

// UnmarshalYAML reads a number of bytes or a text with a unit.
func (b *Bytes) UnmarshalYAML(p []byte) error {
	var text string
	if err := yaml.Unmarshal(p, &text); err != nil {
		return err
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<62 {
		return fmt.Errorf("%q is not a size: write a number of bytes, or one with a unit such as 500GiB", text)
	}
	*b = Bytes(n)
	return nil
}

// Rate is in bytes a second; in YAML a text such as 200Mbit.
type Rate int64

// UnmarshalYAML reads a rate.
func (r *Rate) UnmarshalYAML(p []byte) error {
	var text string
	if err := yaml.Unmarshal(p, &text); err != nil {
		return err
	}
	n, err := api.ParseRate(text)
	*r = Rate(n)
	return err
}

// Percent is 1 to 100; in YAML a number or a text such as 90%.
type Percent int

// UnmarshalYAML reads a percentage.
func (p *Percent) UnmarshalYAML(b []byte) error {
	var text string
	if err := yaml.Unmarshal(b, &text); err != nil {
		return err
	}
	n, err := api.ParsePercent(text)
	*p = Percent(n)
	return err
}

// limits returns what the host is to keep to.
func (c *Config) limits() placement.Limits {
	return placement.Limits{Up: int64(c.Up), Down: int64(c.Down), Quota: int64(c.Quota), High: int(c.High), Low: int(c.Low)}
}

// LoadConfig reads a YAML file. An empty path gives the defaults.
func LoadConfig(path string) (Config, error) {
	var c Config
	if path == "" {
		return c, nil
	}
	p, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("%w: read %s: %w", ErrConfig, path, errors.Unwrap(err))
	}
	if err := yaml.UnmarshalWithOptions(p, &c, yaml.Strict()); err != nil {
		return c, fmt.Errorf("%w: %s: %s", ErrConfig, path, yaml.FormatError(err, false, true))
	}
	return c, nil
}

// Validate fills in the defaults and checks every value, before anything is touched. Its error wraps ErrConfig.
func (c *Config) Validate() error {
	if err := c.defaults(); err != nil {
		return err
	}
	bad := func(key, format string, a ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrConfig, key, fmt.Sprintf(format, a...))
	}
	switch {
	case !filepath.IsAbs(c.Data):
		return bad("data", "%q is not an absolute path", c.Data)
	case c.Mount != "" && !filepath.IsAbs(c.Mount):
		return bad("mount", "%q is not an absolute path", c.Mount)
	case c.FirstStart != firstStartFound && c.FirstStart != firstStartWait:
		return bad("first_start", "%q is neither found nor wait", c.FirstStart)
	case len(c.Name) > maxNameLen || !printable(c.Name):
		return bad("name", "%q is not a host name: 1 to %d printable characters without spaces, commas and colons", c.Name, maxNameLen)
	case c.Name == "all" || strings.HasPrefix(c.Name, "-"):
		return bad("name", "%q means something else where hosts are named on a command line", c.Name)
	case c.Weight < 1 || c.Weight > 10000:
		return bad("weight", "%d is outside 1 to 10000", c.Weight)
	case c.Quota < 0:
		return bad("quota", "is negative")
	case c.HostTimeout < minHostTimeout:
		return bad("host_timeout", "%s is too short: a busy host would count as dead; take at least %s", c.HostTimeout, minHostTimeout)
	case c.Grace < time.Second:
		return bad("grace", "%s is too short: every restart would move files; take at least a second, better some minutes", c.Grace)
	case c.ScrubEvery < time.Minute:
		return bad("scrub_every", "%s is too often; take at least a minute", c.ScrubEvery)
	case c.ScrubRate < 1<<20:
		return bad("scrub_rate", "is below 1MiB a second: a scrub would never end")
	case c.KeepStrays < time.Second:
		return bad("keep_strays", "%s is too short: a new catalogue would cost the files of the old one; take at least a second, better some days", c.KeepStrays)
	case c.Fetches < 1 || c.Fetches > 64:
		return bad("fetches", "%d is outside 1 to 64", c.Fetches)
	case c.Hook.OnFailure != "refuse" && c.Hook.OnFailure != "allow":
		return bad("hook.on_failure", "%q is neither refuse nor allow", c.Hook.OnFailure)
	case c.Hook.Deadline < time.Second:
		return bad("hook.deadline", "%s is too short: take at least a second, better some minutes", c.Hook.Deadline)
	case c.Guests.VSock != guestsAuto && c.Guests.VSock != guestsOn && c.Guests.VSock != guestsOff:
		return bad("guests.vsock", "%q is none of auto, on, off", c.Guests.VSock)
	case c.Join == "" && c.Token != "":
		return bad("`token`", "goes with `join` ADDR, the address of a member")
	}
	for _, a := range []struct{ key, addr string }{{"listen", c.Listen}, {"advertise", c.Advertise}, {"metrics", c.Metrics}, {"`join`", c.Join}} {
		if _, _, err := net.SplitHostPort(a.addr); a.addr != "" && err != nil {
			return bad(a.key, "%q is not HOST:PORT: %v", a.addr, err)
		}
	}
	if why := unreachableAt(c.Advertise); c.Advertise != "" && why != "" {
		return bad("advertise", "no other host can reach %q: %s", c.Advertise, why)
	}
	for _, path := range c.QMP {
		if !filepath.IsAbs(path) {
			return bad("qmp", "%q is not an absolute path", path)
		}
	}
	for _, path := range c.Guests.Hybrid {
		if !filepath.IsAbs(path) || !strings.Contains(path, "{uuid}") && !strings.Contains(path, "{name}") {
			return bad("guests.hybrid", "%q is not an absolute path with {uuid} or {name} in it", path)
		}
	}
	if high, low := c.limits().Watermarks(); low >= high {
		return bad("low", "%d%% is not below high, %d%%", low, high)
	}
	return c.validLog()
}

func (c *Config) validLog() error {
	switch c.Log.Level {
	case "trace", "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("%w: log.level: %q is none of trace, debug, info, warn, error", ErrConfig, c.Log.Level)
}

func (c *Config) defaults() error {
	or(&c.Data, DefaultData)
	if plain, err := disk.Plain(c.Data); err == nil && filepath.IsAbs(c.Data) { // else somebody else says what is wrong
		c.Data = plain
	}
	or(&c.FirstStart, firstStartFound)
	or(&c.Listen, DefaultListen)
	or(&c.Socket, api.DefaultSocket)
	or(&c.Weight, placement.DefaultWeight)
	or(&c.High, placement.DefaultHigh)
	or(&c.Low, min(placement.DefaultLow, c.High-1))
	or(&c.HostTimeout, DefaultHostTimeout)
	or(&c.Grace, DefaultGrace)
	or(&c.ScrubEvery, DefaultScrubEvery)
	or(&c.ScrubRate, DefaultScrubRate)
	or(&c.KeepStrays, keeper.DefaultKeepStrays)
	or(&c.Fetches, DefaultFetches)
	or(&c.Log.Level, "info")
	or(&c.Hook.OnFailure, "refuse")
	or(&c.Hook.Deadline, 10*time.Minute)
	or(&c.Guests.VSock, guestsAuto)
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("%w: name: this machine has no host name (%w); set one with `name`", ErrConfig, err)
		}
		c.Name = name
	}
	return nil
}

// or gives *v its default if it is unset.
func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// printable says whether a name can stand in a table, in a comma-separated list, and beside tag:NAME.
func printable(name string) bool {
	for _, r := range name {
		if !unicode.IsPrint(r) || strings.ContainsRune(" ,:", r) {
			return false
		}
	}
	return name != "" && utf8.ValidString(name)
}

// unreachableAt says why no other host could reach an advertised address, "" if one might.
func unreachableAt(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err.Error()
	}
	ip := net.ParseIP(host)
	number, err := strconv.ParseUint(port, 10, 16)
	switch {
	case host == "":
		return "it names no host"
	case ip != nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return host + " is no address of a host"
	case ip == nil && strings.ContainsFunc(host, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }):
		return fmt.Sprintf("%q is no host name", host)
	case err != nil || number == 0:
		return fmt.Sprintf("%q is no port: take 1 to 65535", port)
	}
	return ""
}

var errNoAddress = errors.New("this machine has no address that other hosts could reach")

// advertise finds the address to tell other hosts, given the one that is bound.
// picked says that the daemon had to choose.
func (c *Config) advertise(bound net.Addr) (addr string, picked bool, err error) {
	if c.Advertise != "" {
		return c.Advertise, false, nil
	}
	host, port, err := net.SplitHostPort(bound.String())
	if err != nil {
		return "", false, fmt.Errorf("%w: listen: %w", ErrConfig, err)
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return net.JoinHostPort(host, port), false, nil
	}
	ip, err := likeliestAddress()
	if err != nil {
		return "", false, fmt.Errorf("list this machine's addresses: %w", err)
	}
	if ip != nil {
		return net.JoinHostPort(ip.String(), port), true, nil
	}
	// Early in a boot: a reason that systemd answers with another start.
	return "", false, reason.Wrap(reason.Unreachable, c.Name, errNoAddress).
		WithHint("wait until its network is up, or set advertise: HOST:PORT in the configuration")
}

// exists says whether a path is there at all.
func exists(files disk.FS, path string) bool {
	_, err := files.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
