package hostd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// A data directory whose file system is not mounted looks like a new one: the host would found a cluster, or join anew,
// beside all that it holds. So a start looks first whether what must be mounted is.

// checkMounts returns an error that names the mount point which the data directory needs and which is not mounted.
// Simulated disks have no mounts.
func (h *Host) checkMounts() error {
	if _, ok := h.fs.(disk.OS); !ok {
		return nil
	}
	fstab, err := os.ReadFile("/etc/fstab")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for mount points: %w", err)
	}
	mounted, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for mounts: %w", err)
	}
	missing := unmounted(string(fstab), string(mounted), h.cfg.Mount, h.cfg.Data, resolve(h.cfg.Data))
	if missing == "" {
		return nil
	}
	return reason.Wrap(reason.InvalidConfig, h.cfg.Data, fmt.Errorf("%s is not mounted", missing)).WithHint(
		fmt.Sprintf("mount it (mount %s), then start the daemon again", missing))
}

// resolve follows the symbolic links in as much of a path as exists.
func resolve(path string) string {
	rest := ""
	for p := filepath.Clean(path); ; p = filepath.Dir(p) {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			return filepath.Join(real, rest)
		}
		if p == filepath.Dir(p) {
			return path
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
}

// unmounted returns the first mount point that the data directory, under any of its names, needs and that is not among
// the mounts; "" if there is none. It needs wanted, if that is not "", and what fstab names at it or above it, but for
// /, which is always mounted. The texts are those of fstab(5) and of /proc/self/mountinfo, see proc(5).
func unmounted(fstab, mountinfo, wanted string, data ...string) string {
	mounts := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			mounts[filepath.Clean(unescape(f[4]))] = true
		}
	}
	if wanted != "" && !mounts[filepath.Clean(wanted)] && !mounts[resolve(wanted)] {
		return wanted
	}
	for line := range strings.Lines(fstab) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || f[2] == "swap" {
			continue
		}
		point := filepath.Clean(unescape(f[1]))
		if !filepath.IsAbs(point) || point == "/" || mounts[point] { // swap space has the mount point "none"
			continue
		}
		for _, dir := range data {
			if dir == point || strings.HasPrefix(dir, point+"/") {
				return point
			}
		}
	}
	return ""
}

// unescape undoes the octal escapes of fstab and mountinfo: \040 is a space.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i] == '\\' && octal(s[i+1]) && s[i+1] < '4' && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return '0' <= c && c <= '7' }
