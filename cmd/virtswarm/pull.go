package main

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func newPull(c *cli) *cobra.Command {
	var hardlink, copied bool
	cmd := &cobra.Command{
		Use:     "pull NAME[@b3:DIGITS] [DEST]",
		GroupID: groupFiles,
		Short:   "Get a file of the cluster as a file of this host",
		Long: `Pull makes this host hold the file, fetching what is missing from other hosts, and exports it to DEST
(its base name in the current directory unless given; a directory gets it inside). Every byte is verified, and
DEST appears only when it is whole. It must not exist.

Where the file system can, DEST shares its blocks with the store; else it is a sparse copy. With --hardlink it
is the very file of the store: no second copy, but it must never be written to.`,
		Example: `  virtswarm pull images/debian-12.raw
  virtswarm pull images/debian-12.raw /var/lib/libvirt/images/
  virtswarm pull images/debian-12.raw@b3:0f1e2d3c ./old.raw`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			mode := v1.ExportMode_EXPORT_MODE_AUTO
			switch {
			case hardlink:
				mode = v1.ExportMode_EXPORT_MODE_HARDLINK
			case copied:
				mode = v1.ExportMode_EXPORT_MODE_COPY
			}
			return c.pull(cmd.Context(), args, mode)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return c.completeRef(cmd, args, typed)
		},
	}
	cmd.Flags().BoolVar(&hardlink, "hardlink", false, "link the read-only file of the store, on the same file system")
	cmd.Flags().BoolVar(&copied, "copy", false, "always copy, share no blocks with the store")
	cmd.MarkFlagsMutuallyExclusive("hardlink", "copy")
	return cmd
}

func (c *cli) pull(ctx context.Context, args []string, mode v1.ExportMode) error {
	r, err := parseRef(args[0])
	if err != nil {
		return err
	}
	dest, err := destination(r.name, args[1:])
	if err != nil {
		return err
	}
	id, err := r.id(ctx, c.host())
	if err != nil {
		return err
	}
	m := c.meter()
	defer m.clear()
	var last *v1.PullProgress
	stream, err := c.host().Control.Pull(ctx, &v1.PullRequest{Name: r.name, Id: id, Dest: dest, Mode: mode})
	err = events(stream, err, func(p *v1.PullProgress) error {
		last = p
		if c.json {
			return c.printJSON(p)
		}
		s := step{label: word(p.GetPhase()), done: p.GetDone(), total: p.GetTotal(), rate: p.GetRate()}
		if p.GetSources() > 0 {
			s.note = plural(p.GetSources(), "source")
		}
		if p.GetPhase() != v1.PullPhase_PULL_PHASE_DONE {
			m.show(s)
		}
		return nil
	})
	m.clear()
	if err != nil || c.json {
		return err
	}
	if last.GetPhase() != v1.PullPhase_PULL_PHASE_DONE {
		return errNoEnd
	}
	t := newTable(c.stdout)
	t.row(last.GetResult().GetDest(), size(last.GetResult().GetSize()),
		size(last.GetRemoteBytes())+" fetched", size(last.GetLocalBytes())+" already here")
	return t.flush()
}

// destination returns the absolute path to export a name to, which must not exist yet.
func destination(name string, args []string) (string, error) {
	dest := path.Base(name)
	if len(args) > 0 {
		dest = args[0]
		info, err := os.Stat(dest)
		if strings.HasSuffix(dest, "/") || err == nil && info.IsDir() {
			dest = filepath.Join(dest, path.Base(name))
		}
	}
	if _, err := os.Lstat(dest); err == nil {
		return "", reason.Wrap(reason.DestExists, dest, nil)
	}
	abs, err := filepath.Abs(dest)
	if err != nil {
		return "", usageError("destination %s: %v", dest, err)
	}
	return abs, nil
}
