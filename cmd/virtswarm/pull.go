package main

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// pullFlags say what is made of a file.
type pullFlags struct {
	hardlink, copied, overwrite bool
	mode, owner                 string
}

func newPull(c *cli) *cobra.Command {
	var f pullFlags
	cmd := &cobra.Command{
		Use:     "pull NAME[@b3:DIGITS] [DEST]",
		GroupID: groupFiles,
		Short:   "Get a file of the cluster as a file of this host",
		Long: `Pull makes this host hold the file, fetching what is missing from other hosts, and exports it to DEST
(its base name in the current directory unless given; a directory gets it inside; - is standard output). Every
byte is verified, and DEST appears only when it is whole. It must not exist.

DEST belongs to the daemon's user, who alone may read it (mode 600, less what the umask takes); --mode and --owner say
otherwise. Where the file system can, it shares its blocks with the store; else it is a sparse copy. With --hardlink it
is the very file of the store: no second copy, but it must never be written to.

With --overwrite DEST is a block device, and all of it is written over, with zeros behind the end of the file.`,
		Example: `  virtswarm pull images/debian-12.raw
  virtswarm pull images/debian-12.raw /var/lib/libvirt/images/ --mode 640 --owner root:libvirt-qemu
  virtswarm pull images/debian-12.raw@b3:0f1e2d3c ./old.raw
  virtswarm pull images/vm7.raw /dev/vg/vm7 --overwrite
  virtswarm pull backup/etc.tar - | tar t`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && args[1] == standard {
				if f != (pullFlags{}) || c.json {
					return usageError("pull to standard output takes no flags: it gives the bytes alone")
				}
				return c.pullTo(cmd.Context(), args[0], c.stdout)
			}
			return c.pull(cmd.Context(), args, f)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return c.completeRef(cmd, args, typed)
		},
	}
	cmd.Flags().BoolVar(&f.hardlink, "hardlink", false, "link the read-only file of the store, on the same file system")
	cmd.Flags().BoolVar(&f.copied, "copy", false, "always copy, share no blocks with the store")
	cmd.Flags().BoolVar(&f.overwrite, "overwrite", false, "write over all of DEST, a block device that nobody uses")
	cmd.Flags().StringVar(&f.mode, "mode", "", "permissions of DEST in octal digits, such as 640, whatever the umask")
	cmd.Flags().StringVar(&f.owner, "owner", "", "who DEST is to belong to: USER, USER:GROUP or :GROUP")
	cmd.MarkFlagsMutuallyExclusive("hardlink", "copy")
	completeFlag(cmd, "mode", "600", "640", "644")
	return cmd
}

// request asks for a file by name.
func (f pullFlags) request() (req *v1.PullRequest, err error) {
	req = &v1.PullRequest{Mode: v1.ExportMode_EXPORT_MODE_AUTO, Overwrite: f.overwrite}
	perm := fs.FileMode(0o600)
	switch {
	case f.hardlink:
		req.Mode, perm = v1.ExportMode_EXPORT_MODE_HARDLINK, 0o400
	case f.copied:
		req.Mode = v1.ExportMode_EXPORT_MODE_COPY
	}
	perm &^= umask()
	if f.mode != "" {
		if perm, err = parseMode(f.mode); err != nil {
			return nil, err
		}
	}
	if !f.overwrite || f.mode != "" {
		req.Perm = new(uint32(perm))
	}
	if f.owner != "" {
		req.Owner, req.Group, err = parseOwner(f.owner)
	}
	return req, err
}

func (c *cli) pull(ctx context.Context, args []string, f pullFlags) error {
	r, err := parseRef(args[0])
	if err != nil {
		return err
	}
	req, err := f.request()
	if err != nil {
		return err
	}
	if req.Dest, err = destination(r.name, args[1:], f.overwrite); err != nil {
		return err
	}
	if req.Id, err = r.id(ctx, c.host()); err != nil {
		return err
	}
	req.Name = r.name
	m := c.meter()
	defer m.clear()
	var last *v1.PullProgress
	stream, err := c.host().Control.Pull(ctx, req)
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

// destination returns the absolute path to export a name to, which must not exist yet unless it is written over.
func destination(name string, args []string, overwrite bool) (string, error) {
	dest := path.Base(name)
	if len(args) > 0 {
		dest = args[0]
		info, err := os.Stat(dest)
		if !overwrite && (strings.HasSuffix(dest, "/") || err == nil && info.IsDir()) {
			dest = disk.Join(dest, path.Base(name))
		}
	}
	if info, err := os.Lstat(dest); err == nil && !overwrite {
		if target, err := os.Stat(dest); err == nil && disk.IsDevice(target) { // /dev/vg/lv is a link
			info = target
		}
		return "", reason.Occupied(dest, info.Mode())
	}
	return absolute(dest)
}

// pullTo writes the bytes of a file to w.
func (c *cli) pullTo(ctx context.Context, arg string, w io.Writer) error {
	name, id, err := c.resolve(ctx, arg)
	if err != nil {
		return err
	}
	_, err = c.readFile(ctx, &v1.ReadRequest{Name: name, Id: id}, func(*v1.ReadChunk) (io.Writer, error) { return w, nil })
	return err
}

// readFile writes the bytes of a file to what begin returns, which is called once it is known what the file is.
func (c *cli) readFile(ctx context.Context, req *v1.ReadRequest, begin func(first *v1.ReadChunk) (io.Writer, error)) (first *v1.ReadChunk, err error) {
	stream, err := c.host().Control.Read(ctx, req)
	var w io.Writer
	var done uint64
	whole := false
	err = events(stream, err, func(p *v1.ReadChunk) (err error) {
		if first == nil {
			first = p
			if w, err = begin(p); err != nil {
				return err
			}
		}
		n, err := w.Write(p.GetData())
		done += uint64(n)
		for left := p.GetZeros(); err == nil && left > 0; left -= uint64(n) {
			n, err = w.Write(zeros[:min(left, uint64(len(zeros)))])
			done += uint64(n)
		}
		whole = p.GetEnd()
		return err
	})
	if err == nil && (!whole || done != first.GetSize()) {
		err = errNoEnd
	}
	return first, err
}

// zeros are what a hole reads as.
var zeros [64 << 10]byte
