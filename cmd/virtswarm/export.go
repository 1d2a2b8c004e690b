package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// What an archive says of a file beside its name and size: records of PAX.
const (
	paxID        = "VIRTSWARM.id"
	paxChunkSize = "VIRTSWARM.chunk_size"
	paxReplicas  = "VIRTSWARM.replicas"
	paxGuests    = "VIRTSWARM.guests"
)

func newExport(c *cli) *cobra.Command {
	var f pullFlags
	cmd := &cobra.Command{
		Use:     "export PREFIX DIR",
		GroupID: groupFiles,
		Short:   "Copy all files below a prefix into a directory, or an archive",
		Long: `Export pulls the newest version of each file whose name begins with PREFIX ('' is all) to DIR, under its name: a file
images/x becomes DIR/images/x. DIR is made if it does not exist; with - all goes to standard output, as a tar archive.
'virtswarm import' brings them back.

Every byte is verified. Repeated, after an interruption or a week later, it reads what is there and copies only what is
missing, damaged or out of date; it removes nothing, and writes over nothing that is not of an earlier export.`,
		Example: `  virtswarm export '' /backup/files
  virtswarm export images/ - | zstd >/backup/images.tar.zst`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] != standard {
				return c.export(cmd.Context(), args[0], args[1], f)
			}
			if f != (pullFlags{}) || c.json {
				return usageError("export to standard output takes no flags: it gives the archive alone")
			}
			return c.exportArchive(cmd.Context(), args[0])
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return c.completeName(cmd, args, typed)
			}
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().StringVar(&f.mode, "mode", "", "permissions of the files in octal digits, such as 640, whatever the umask")
	cmd.Flags().StringVar(&f.owner, "owner", "", "who the files are to belong to: USER, USER:GROUP or :GROUP")
	completeFlag(cmd, "mode", "600", "640", "644")
	return cmd
}

// exporting is one export into a directory.
type exporting struct {
	*copying
	dir   string
	flags pullFlags
	known map[string]listed // by name
}

func (c *cli) export(ctx context.Context, prefix, dir string, f pullFlags) error {
	if _, err := f.request(); err != nil { // before anything is made
		return err
	}
	dir, err := absolute(strings.TrimRight(dir, "/") + "/")
	if err != nil {
		return err
	}
	staleness, files, err := c.allFiles(ctx, prefix)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return dirError(err, dir)
	}
	list, err := readList(dir)
	if err != nil {
		return err
	}
	x := &exporting{copying: c.newCopying("exported", false), dir: dir, flags: f, known: map[string]listed{}}
	for _, l := range list {
		x.known[l.Name] = l
	}
	for _, file := range files {
		p := &v1.CopyProgress{Name: file.GetName(), Id: file.GetId(), Size: file.GetSize()}
		if err := x.tell(ctx, p, x.one(ctx, file, p)); err != nil {
			return err
		}
	}
	c.noteStale(staleness)
	return x.end()
}

// one brings a file into the directory.
func (x *exporting) one(ctx context.Context, f *v1.File, p *v1.CopyProgress) error {
	want := listing(f)
	var err error
	if want.Path, err = x.place(f.GetName()); err != nil {
		return err
	}
	p.Path = want.Path
	path := x.dir + want.Path
	known, ours := x.known[f.GetName()]
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		if err := x.pull(ctx, f, path); err != nil {
			return err
		}
	case err != nil:
		return dirError(err, path)
	case !st.Mode().IsRegular():
		return reason.Occupied(path, st.Mode())
	default:
		is, err := idOf(ctx, path, f.GetChunkSize())
		if err != nil {
			return dirError(err, path)
		}
		if p.Present = is == f.GetId(); p.Present {
			break
		}
		if !ours || known.Path != want.Path {
			e := reason.Occupied(path, st.Mode())
			e.Err = errors.New("it has other bytes, and is of no earlier export")
			return e
		}
		if err := x.replace(ctx, f, path); err != nil {
			return err
		}
	}
	if ours && known == want {
		return nil
	}
	x.known[want.Name] = want
	return appendList(x.dir, want)
}

// place finds the path of a name, and makes its directory. A name of which no path can be made, because one of another
// file is in the way, has one that says nothing.
func (x *exporting) place(name string) (string, error) {
	if known, ok := x.known[name]; ok {
		return known.Path, dirError(os.MkdirAll(disk.Dir(x.dir+known.Path), 0o777), x.dir)
	}
	if !isOdd(name) {
		err := os.MkdirAll(disk.Dir(x.dir+name), 0o777)
		st, statErr := os.Lstat(x.dir + name)
		if taken := statErr == nil && st.IsDir(); err == nil && !taken {
			return name, nil
		}
		if blocked, statErr := x.blocked(name); statErr != nil || err != nil && !blocked {
			return "", dirError(errors.Join(err, statErr), x.dir+name)
		}
	}
	odd := oddPath(name)
	return odd, dirError(os.MkdirAll(disk.Dir(x.dir+odd), 0o777), x.dir+odd)
}

// blocked reports whether a file stands where a name needs a directory.
func (x *exporting) blocked(name string) (bool, error) {
	for i := range len(name) {
		if name[i] != '/' {
			continue
		}
		st, err := os.Stat(x.dir + name[:i])
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if !st.IsDir() {
			return true, nil
		}
	}
	return false, nil
}

// pull has the daemon make a file at a path.
func (x *exporting) pull(ctx context.Context, f *v1.File, path string) error {
	req, err := x.flags.request()
	if err != nil {
		return err
	}
	req.Name, req.Id, req.Dest = f.GetName(), f.GetId(), path
	stream, err := x.host().Control.Pull(ctx, req)
	done := false
	err = events(stream, err, func(p *v1.PullProgress) error {
		done = p.GetPhase() == v1.PullPhase_PULL_PHASE_DONE
		x.meter.show(step{label: f.GetName(), done: p.GetDone(), total: p.GetTotal(), rate: p.GetRate()})
		return nil
	})
	if err == nil && !done {
		err = errNoEnd
	}
	return err
}

// replace puts a file in the place of an earlier version of it, at once and whole.
func (x *exporting) replace(ctx context.Context, f *v1.File, path string) error {
	next := disk.Join(disk.Dir(path), fmt.Sprintf("%snew-%d", ownPrefix, os.Getpid()))
	if err := x.pull(ctx, f, next); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(next, path), syncDir(disk.Dir(path))); err != nil {
		os.Remove(next)
		return dirError(err, path)
	}
	return nil
}

// exportArchive writes a tar archive to standard output.
func (c *cli) exportArchive(ctx context.Context, prefix string) error {
	staleness, files, err := c.allFiles(ctx, prefix)
	if err != nil {
		return err
	}
	w := tar.NewWriter(c.stdout)
	x := c.newCopying("exported", true)
	for _, f := range files {
		begun := false
		_, err := c.readFile(ctx, &v1.ReadRequest{Name: f.GetName(), Id: f.GetId()}, func(first *v1.ReadChunk) (io.Writer, error) {
			begun = true
			return w, w.WriteHeader(archived(f))
		})
		if err != nil && begun {
			return err // the archive ends here, and whoever reads it sees that it was cut off
		}
		if err := x.tell(ctx, &v1.CopyProgress{Name: f.GetName(), Id: f.GetId(), Size: f.GetSize()}, err); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	c.noteStale(staleness)
	return x.end()
}

// archived describes a file in an archive.
func archived(f *v1.File) *tar.Header {
	return &tar.Header{
		Typeflag: tar.TypeReg, Name: f.GetName(), Size: int64(f.GetSize()), Mode: 0o600, Format: tar.FormatPAX,
		ModTime: time.Unix(f.GetPublishedAt(), 0), PAXRecords: map[string]string{
			paxID: f.GetId(), paxChunkSize: fmt.Sprint(f.GetChunkSize()), paxReplicas: fmt.Sprint(f.GetReplicas()), paxGuests: f.GetGuests(),
		},
	}
}
