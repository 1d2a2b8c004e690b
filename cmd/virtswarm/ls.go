package main

import (
	"context"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newLs(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "ls [PREFIX]",
		GroupID: groupFiles,
		Short:   "List the files of the cluster",
		Long: `Ls lists the names that begin with PREFIX, with the newest version of each. COPIES counts whole copies
on live hosts; "1 of 2" means that copies are missing.`,
		Example: `  virtswarm ls
  virtswarm ls images/
  virtswarm ls --json | jq -r '.files[].name'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			return c.ls(cmd.Context(), prefix)
		},
		ValidArgsFunction: c.completeName,
	}
}

func (c *cli) ls(ctx context.Context, prefix string) error {
	staleness, files, err := c.allFiles(ctx, prefix)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(&v1.ListResponse{Staleness: staleness, Files: files})
	}
	c.noteStale(staleness)
	if len(files) == 0 {
		return nil
	}
	t := newTable(c.stdout, "NAME", "SIZE", "DATA", "COPIES", "VERSIONS", "PUBLISHED", "VERSION")
	for _, f := range files {
		t.row(f.GetName(), size(f.GetSize()), size(f.GetDataBytes()), copies(f.GetCopiesMade(), f.GetCopiesWanted()),
			f.GetVersions(), when(f.GetPublishedAt()), shortID(f.GetId()))
	}
	return t.flush()
}

// allFiles gathers the pages of a listing. If the host loses its leader meanwhile, the whole counts as stale.
func (c *cli) allFiles(ctx context.Context, prefix string) (*v1.Staleness, []*v1.File, error) {
	var files []*v1.File
	req := &v1.ListRequest{Prefix: prefix}
	for {
		page, err := c.host().Control.List(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, page.GetFiles()...)
		if !page.GetMore() || len(page.GetFiles()) == 0 {
			return page.GetStaleness(), files, nil
		}
		req.After = files[len(files)-1].GetName()
	}
}
