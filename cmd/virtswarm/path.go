package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// standard stands for standard input or output in the place of a path.
const standard = "-"

// own returns what a path means to this process, if it means something else to each.
func own(path string) string {
	self := fmt.Sprintf("/proc/%d", os.Getpid())
	for _, p := range []struct{ mine, means string }{
		{"/proc/self", self}, {"/proc/thread-self", self}, {"/dev/fd", self + "/fd"},
		{"/dev/stdin", self + "/fd/0"}, {"/dev/stdout", self + "/fd/1"}, {"/dev/stderr", self + "/fd/2"},
	} {
		if rest, ok := strings.CutPrefix(path, p.mine); ok && (rest == "" || rest[0] == '/') {
			return p.means + rest
		}
	}
	return path
}

// absolute returns the path as a daemon, which is another process with another working directory, finds the same file.
func absolute(path string) (string, error) {
	abs, err := disk.Abs(path)
	if err != nil {
		return "", reason.Wrap(reason.Usage, fmt.Sprintf("%.300q", path), err).WithHint("name it by an absolute path")
	}
	abs = own(abs)
	if !utf8.ValidString(abs) {
		return "", reason.Wrap(reason.Usage, fmt.Sprintf("%.300q", abs), errors.New("the path is not valid UTF-8, and the daemon takes no other")).
			WithHint("have the shell open the file: virtswarm publish - NAME <FILE, virtswarm pull NAME - >FILE")
	}
	return abs, nil
}

// umask returns the permissions that this process gives nobody.
func umask() fs.FileMode {
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	return fs.FileMode(mask) & fs.ModePerm
}

// parseMode reads permissions as chmod takes them in digits.
func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return 0, usageError("--mode %s: it is three octal digits, such as 640", s)
	}
	return fs.FileMode(n), nil
}

// parseOwner reads USER, USER:GROUP or :GROUP, names or numbers; what is not named is nil.
func parseOwner(s string) (owner, group *uint32, err error) {
	u, g, _ := strings.Cut(s, ":")
	if u != "" {
		if owner, err = number(u, func(name string) (string, error) {
			found, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return found.Uid, nil
		}); err != nil {
			return nil, nil, usageError("--owner %s: there is no user %s", s, u)
		}
	}
	if g != "" {
		if group, err = number(g, func(name string) (string, error) {
			found, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return found.Gid, nil
		}); err != nil {
			return nil, nil, usageError("--owner %s: there is no group %s", s, g)
		}
	}
	if owner == nil && group == nil {
		return nil, nil, usageError("--owner %s: it is USER, USER:GROUP or :GROUP", s)
	}
	return owner, group, nil
}

// number reads a number, or the one that a name has.
func number(s string, lookup func(name string) (string, error)) (*uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		if s, err = lookup(s); err == nil {
			n, err = strconv.ParseUint(s, 10, 32)
		}
	}
	if err != nil || n == 1<<32-1 { // which means to leave it as it is
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	return new(uint32(n)), nil
}

// output is standard output: a failure to write to it is no fault of the daemon.
type output struct{ w io.Writer }

// Write implements io.Writer.
func (o output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		why := reason.Of(err)
		if why == reason.Unexpected || why == reason.DiskError {
			why = reason.DestUnusable
		}
		err = reason.Wrap(why, "standard output", err).WithHint("see where the output of the command goes to")
	}
	return n, err
}

// stdinName is how errors name standard input.
const stdinName = "standard input"

// readError explains why standard input could not be read.
func readError(err error) error {
	return reason.Wrap(reason.SourceUnreadable, stdinName, err).WithHint("see where the input of the command comes from")
}

var stdin io.Reader = os.Stdin
