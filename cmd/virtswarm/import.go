package main

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// importFlags say how what is imported is published.
type importFlags struct {
	force bool
	wait  string
}

func newImport(c *cli) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:     "import DIR",
		GroupID: groupFiles,
		Short:   "Publish all files of an exported directory, or archive, under their names",
		Long: `Import publishes what 'virtswarm export' wrote: each file under its name, with its copies and guests. What has become
something else than it was is refused. - is a tar archive on standard input. Files that no list or archive of an export
describes are published under their paths, with the defaults of publish.

Repeated, it publishes only what is missing. A name that has other versions in the cluster is refused, so that what was
exported earlier hides nothing; with --force it becomes the newest version.`,
		Example: `  virtswarm import /backup/files
  zstdcat /backup/images.tar.zst | virtswarm import -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			im := &importing{copying: c.newCopying("imported", false), force: f.force}
			var err error
			if im.wait, err = parseWait(f.wait); err != nil {
				return err
			}
			if args[0] == standard {
				return im.archive(cmd.Context(), stdin)
			}
			return im.directory(cmd.Context(), args[0])
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveFilterDirs
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVar(&f.force, "force", false, "publish also over other versions of a name")
	cmd.Flags().StringVar(&f.wait, "wait", "replicated", "when a file counts as imported: replicated, or as soon as committed to the catalogue")
	completeFlag(cmd, "wait", "replicated", "committed")
	return cmd
}

// importing is one import.
type importing struct {
	*copying
	force bool
	wait  v1.Wait
	short int // files with fewer copies than they should have
}

// directory publishes what is in a directory.
func (im *importing) directory(ctx context.Context, dir string) error {
	dir, err := absolute(strings.TrimRight(dir, "/") + "/")
	if err != nil {
		return err
	}
	files, err := readList(dir)
	if err != nil {
		return err
	}
	others, err := im.unlisted(dir, files)
	if err != nil {
		return err
	}
	files = append(files, others...)
	slices.SortFunc(files, func(a, b listed) int { return cmp.Compare(a.Name, b.Name) })
	for _, l := range files {
		p := &v1.CopyProgress{Name: l.Name, Id: l.ID, Size: l.Size, Path: l.Path}
		err := im.one(ctx, l, p, func(req *v1.PublishRequest) (*v1.PublishProgress, error) {
			if !filepath.IsLocal(l.Path) {
				return nil, reason.Wrap(reason.DamagedData, l.Name, fmt.Errorf("its path in the list, %q, leads out of the directory", l.Path))
			}
			if req.Path, err = checkSource(dir + l.Path); err != nil {
				return nil, err
			}
			stream, err := im.host().Control.Publish(ctx, req)
			if err != nil {
				return nil, err
			}
			defer stream.Close()
			return im.silent().publishing(im.meter, func() (*v1.PublishProgress, error) {
				if stream.Receive() {
					return stream.Msg(), nil
				}
				return nil, cmp.Or(stream.Err(), io.EOF)
			})
		})
		if err := im.tell(ctx, p, err); err != nil {
			return err
		}
	}
	return im.finish()
}

// unlisted finds the files that are in a directory and not in its list.
func (im *importing) unlisted(dir string, list []listed) (others []listed, err error) {
	known := map[string]bool{}
	for _, l := range list {
		known[l.Path] = true
	}
	var walk func(below string) error // ends in a slash, or is empty
	walk = func(below string) error {
		entries, err := os.ReadDir(dir + below)
		if err != nil {
			return reason.Wrap(reason.SourceUnreadable, dir+below, err)
		}
		for _, e := range entries {
			name := below + e.Name()
			switch {
			case strings.HasPrefix(e.Name(), ownPrefix), known[name]:
			case e.IsDir():
				if err := walk(name + "/"); err != nil {
					return err
				}
			case !e.Type().IsRegular():
				im.note("left out, as it is no file: %s", dir+name)
			default:
				others = append(others, listed{Name: name, Path: name})
			}
		}
		return nil
	}
	return others, walk("")
}

// archive publishes what is in an archive.
func (im *importing) archive(ctx context.Context, r io.Reader) error {
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return im.finish()
		}
		if err != nil {
			return archiveError(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
		default:
			im.note("left out, as it is no file: %s", h.Name)
			continue
		}
		l, err := described(h)
		p := &v1.CopyProgress{Name: l.Name, Id: l.ID, Size: uint64(h.Size)}
		if err == nil {
			err = im.one(ctx, l, p, func(req *v1.PublishRequest) (*v1.PublishProgress, error) {
				last, sent, err := im.silent().sendStream(ctx, im.meter, req, archive)
				<-sent // the archive is read by one at a time
				return last, err
			})
		}
		if api.ReasonOf(err) == reason.SourceUnreadable { // nothing can be read behind it
			return err
		}
		if err := im.tell(ctx, p, err); err != nil {
			return err
		}
	}
}

func archiveError(err error) error {
	return reason.Wrap(reason.SourceUnreadable, "the archive on standard input", err).
		WithHint("it is cut off, or none: take another copy, and repeat; what was imported before that stays")
}

// described says what an archive tells of a file.
func described(h *tar.Header) (l listed, err error) {
	l = listed{Name: strings.TrimPrefix(h.Name, "./"), ID: h.PAXRecords[paxID], Size: uint64(h.Size), Guests: h.PAXRecords[paxGuests]}
	if l.ID == "" {
		return l, nil
	}
	chunkSize, err1 := strconv.ParseUint(h.PAXRecords[paxChunkSize], 10, 32)
	replicas, err2 := strconv.ParseUint(h.PAXRecords[paxReplicas], 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return l, reason.Wrap(reason.DamagedData, l.Name, err)
	}
	l.ChunkSize, l.Replicas = uint32(chunkSize), uint32(replicas)
	return l, nil
}

// one publishes a file, unless the cluster has it.
func (im *importing) one(ctx context.Context, l listed, p *v1.CopyProgress, publish func(*v1.PublishRequest) (*v1.PublishProgress, error)) error {
	shown, err := im.host().Control.Show(ctx, &v1.ShowRequest{Name: l.Name})
	switch {
	case api.ReasonOf(err) == reason.NotFound:
	case err != nil:
		return err
	case slices.ContainsFunc(shown.GetVersions(), func(f *v1.File) bool { return f.GetId() == l.ID }):
		p.Present = true
		return nil
	case !im.force:
		return reason.Wrap(reason.DestExists, l.Name, errors.New("the cluster has other versions of it, which this would hide")).
			WithHint("to make it the newest version, add `force`")
	}
	req := &v1.PublishRequest{Name: l.Name, Guests: l.Guests, ChunkSize: l.ChunkSize, Expect: l.ID, Wait: im.wait}
	if l.ID != "" {
		req.Replicas = &l.Replicas
	}
	done, err := publish(req)
	if err != nil {
		return err
	}
	if done.GetPhase() != v1.PublishPhase_PUBLISH_PHASE_DONE {
		return errNoEnd
	}
	p.Id, p.Size = done.GetResult().GetId(), done.GetResult().GetSize()
	if im.wait != v1.Wait_WAIT_COMMITTED && done.GetCopiesMade() < done.GetCopiesWanted() {
		im.short++
	}
	return nil
}

// silent is the tool as it prints no events: those of a publication are not those of an import.
func (im *importing) silent() *cli {
	quiet := *im.cli
	quiet.json = false
	return &quiet
}

// finish tells how it went.
func (im *importing) finish() error {
	if im.short > 0 && !im.json {
		im.meter.clear()
		im.note("warning: %s with fewer copies than they should have: the missing ones are made once there are hosts for them", plural(im.short, "file"))
	}
	return im.end()
}
