package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func newCatalogueSave(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "save FILE",
		Short: "Save the catalogue: names, versions, policies, orders",
		Long: `Save writes the catalogue, as it is at this moment, to FILE (- is standard output): whole or not at all, in place of
what FILE held before, and readable for its owner alone. It holds no contents of files.`,
		Example: `  virtswarm catalogue save /backup/catalogue
  virtswarm catalogue save - | zcat | jq -c .file`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" {
				s, _, err := c.fetchCatalogue(cmd.Context(), c.stdout)
				c.noteStale(s)
				return err
			}
			return c.saveCatalogue(cmd.Context(), args[0])
		},
	}
}

// fetchCatalogue writes the catalogue to w.
func (c *cli) fetchCatalogue(ctx context.Context, w io.Writer) (s *v1.Staleness, bytes uint64, err error) {
	stream, err := c.host().Control.SaveCatalogue(ctx, &v1.SaveCatalogueRequest{})
	err = events(stream, err, func(p *v1.SaveCatalogueChunk) error {
		if p.GetStaleness() != nil {
			s = p.GetStaleness()
		}
		n, err := w.Write(p.GetData())
		bytes += uint64(n)
		return err
	})
	if err == nil && (s == nil || bytes == 0) {
		err = errNoEnd
	}
	return s, bytes, err
}

// saveCatalogue writes the catalogue to a file beside path and puts it in the place of path once it is on the disk.
func (c *cli) saveCatalogue(ctx context.Context, path string) (err error) {
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return usageError("%s is not a regular file: name another one, or - for standard output", path)
	}
	dir := disk.Dir(path)
	f, err := os.CreateTemp(dir, ".virtswarm-catalogue.*") // with mode 0600
	if err != nil {
		return saveError(err, path)
	}
	defer func() {
		if err != nil {
			f.Close() // perhaps for the second time
			os.Remove(f.Name())
		}
	}()
	s, n, err := c.fetchCatalogue(ctx, f)
	if err != nil {
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return saveError(err, path)
		}
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return saveError(err, path)
	}
	if err := errors.Join(os.Rename(f.Name(), path), syncDir(dir)); err != nil {
		return saveError(err, path)
	}
	if c.json {
		return c.printJSON(&v1.SavedCatalogue{Staleness: s, Path: path, Bytes: n})
	}
	c.noteStale(s)
	_, err = fmt.Fprintf(c.stdout, "%s  %s  the catalogue up to entry %d\n", path, size(n), s.GetIndex())
	return err
}

func saveError(err error, path string) error {
	why := reason.Of(err)
	if why == reason.Unexpected || why == reason.DiskError {
		why = reason.DestUnusable
	}
	return reason.Wrap(why, path, err).WithHint("see that the directory exists, can be written, and has room; what was there before is untouched")
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
