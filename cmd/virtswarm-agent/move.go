package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

func newPull(c *cli) *cobra.Command {
	var force bool
	var mode string
	cmd := &cobra.Command{
		Use:   "pull NAME[@b3:DIGITS] [DEST]",
		Short: "Get a file from the host",
		Long: `Pull gets a file, the newest version unless a digest says which. It is verified chunk by chunk; holes stay holes; it
appears at DEST (a file, or a directory that exists; the working directory by default) at once and whole. What was
interrupted goes on where it was when it is called again. With DEST - the bytes go to the standard output.`,
		Example: `  virtswarm-agent pull images/app.img /srv/app.img
  virtswarm-agent pull data/set.tar - | tar x`,
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			name, id, err := splitName(list[0])
			if err != nil {
				return err
			}
			dest := "."
			if len(list) == 2 {
				dest = list[1]
			}
			o := guestagent.PullOptions{ID: id, Replace: force}
			if o.Perm, err = parseMode(mode); err != nil {
				return err
			}
			bar := newMeter(c, name)
			defer bar.end()
			o.Progress = func(done, total int64) { bar.show("", done, total) }
			if dest == "-" {
				signal.Ignore(syscall.SIGPIPE) // the error says it
				_, err := c.agent().PullTo(cmd.Context(), name, c.stdout, o)
				return err
			}
			if info, err := os.Stat(dest); err == nil && info.IsDir() {
				dest = disk.Join(dest, path.Base(name))
			}
			began := time.Now()
			r, err := c.agent().Pull(cmd.Context(), name, dest, o)
			bar.end()
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(struct {
					guestagent.Pulled
					Dest    string  `json:"dest"`
					Seconds float64 `json:"seconds"`
				}{r, dest, time.Since(began).Seconds()})
			}
			_, err = fmt.Fprintf(c.stdout, "%s  %s  %s  %s\n", dest, humanize.IBytes(uint64(r.Size)), r.ID, rate(r.Fetched, time.Since(began)))
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "replace what is at DEST")
	cmd.Flags().StringVar(&mode, "mode", "", "permissions of DEST in octal digits, such as 644 (default 600, less the umask)")
	return cmd
}

// parseMode reads permissions as chmod takes them in digits; nothing is nil.
func parseMode(s string) (*fs.FileMode, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return nil, usageError("--mode %s: it is three octal digits, such as 644", s)
	}
	return new(fs.FileMode(n)), nil
}

// splitName takes the version off a name.
func splitName(text string) (name string, id content.Digest, err error) {
	name, digest, ok := strings.Cut(text, "@b3:")
	if !ok {
		return text, id, nil
	}
	if id, err = content.ParseDigest("b3:" + digest); err != nil {
		return name, id, usageError("%.200s: %v", text, err)
	}
	return name, id, nil
}

func newPush(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "push FILE NAME",
		Short: "Publish a file of this machine",
		Long: `Push publishes a file under NAME, below the prefix that the operator gave to this machine (see status). Who may read it,
and how much this machine may publish, is the operator's decision as well. It returns when the hosts keep as many copies as
they are to. What was interrupted goes on where it was when it is called again within ten minutes.`,
		Example: "  virtswarm-agent push /var/log/build.tar.zst build-17.tar.zst",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			bar := newMeter(c, list[0])
			defer bar.end()
			what := map[guestagent.PushPhase]string{guestagent.Hashing: "reads", guestagent.Sending: "sends", guestagent.Replicating: "copies"}
			began := time.Now()
			r, err := c.agent().Push(cmd.Context(), list[0], list[1], func(phase guestagent.PushPhase, done, total int64) {
				bar.show(what[phase], done, total)
			})
			bar.end()
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(r)
			}
			_, err = fmt.Fprintf(c.stdout, "%s  %s  %s  %d copies  %s\n", r.Name, humanize.IBytes(uint64(r.Size)), r.ID, r.Copies, rate(r.Sent, time.Since(began)))
			return err
		},
	}
}

func newSync(c *cli) *cobra.Command {
	var once bool
	var mode string
	cmd := &cobra.Command{
		Use:   "sync PREFIX DIR",
		Short: "Keep a directory equal to the files that this machine is given",
		Long: `Sync keeps DIR equal to the files whose names begin with PREFIX and that this machine may read, until it is
interrupted: it brings new files and new versions when they are published, and removes what it has brought once that is not
given any more. Files of others in DIR are left alone. PREFIX up to its last slash is no part of the paths in DIR.`,
		Example: `  virtswarm-agent sync site/ /srv/site
  systemctl enable --now virtswarm-sync@site   # keeps /srv/virtswarm/site`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			perm, err := parseMode(mode)
			if err != nil {
				return err
			}
			return c.agent().Sync(cmd.Context(), list[0], list[1], guestagent.SyncOptions{Once: once, Event: c.synced, Perm: perm})
		},
	}
	cmd.Flags().StringVar(&mode, "mode", "", "permissions of the files in octal digits, such as 644 (default 600, less the umask)")
	cmd.Flags().BoolVar(&once, "once", false, "return when the directory is as it should be")
	return cmd
}

// synced prints one change.
func (c *cli) synced(e guestagent.SyncEvent) {
	switch {
	case c.json:
		_ = c.printJSON(e)
	case e.Error != "":
		fmt.Fprintf(c.stderr, "virtswarm-agent: %s: %s\n", e.Path, e.Error)
	case e.Removed:
		fmt.Fprintf(c.stdout, "removed %s\n", e.Path)
	default:
		fmt.Fprintf(c.stdout, "%s  %s\n", e.Path, e.ID)
	}
}

// rate is a number of bytes a second as people read it.
func rate(bytes int64, took time.Duration) string {
	return humanize.IBytes(uint64(float64(bytes)/max(took.Seconds(), 1e-6))) + "/s"
}

// meter shows how far something is, on a terminal.
type meter struct {
	cli   *cli
	name  string
	began time.Time
	last  time.Time
	on    bool
	drawn bool
}

// meterPace is the least time between two drawings.
const meterPace = 100 * time.Millisecond

func newMeter(c *cli, name string) *meter {
	return &meter{cli: c, name: name, began: time.Now(), on: !c.json && term.IsTerminal(int(c.stderr.Fd()))}
}

func (m *meter) show(what string, done, total int64) {
	if !m.on || time.Since(m.last) < meterPace || total <= 0 {
		return
	}
	m.last, m.drawn = time.Now(), true
	amount := fmt.Sprintf("%s of %s, %s", humanize.IBytes(uint64(done)), humanize.IBytes(uint64(total)), rate(done, time.Since(m.began)))
	if what == "copies" {
		amount = fmt.Sprintf("%d of %d", done, total)
	}
	fmt.Fprintf(m.cli.stderr, "\r\033[K%s  %s %3d%%  %s", m.name, what, 100*done/total, amount)
}

func (m *meter) end() {
	if m.drawn {
		fmt.Fprint(m.cli.stderr, "\r\033[K")
	}
	m.on, m.drawn = false, false
}
