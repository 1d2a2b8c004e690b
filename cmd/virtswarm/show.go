package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newShow(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME[@b3:DIGITS]",
		GroupID: groupFiles,
		Short:   "Show a file: its versions, its policy and who holds it",
		Long: `Show tells all about a file, or about the version named. HOME counts the shards that a host must hold
for the copies that were asked for; "whole" means that distribute wants the file there.`,
		Example: `  virtswarm show images/debian-12.raw
  virtswarm show images/debian-12.raw@b3:0f1e2d3c`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.show(cmd.Context(), args[0])
		},
		ValidArgsFunction: c.completeRef,
	}
}

func (c *cli) show(ctx context.Context, arg string) error {
	name, id, err := c.resolve(ctx, arg)
	if err != nil {
		return err
	}
	resp, err := c.host().Control.Show(ctx, &v1.ShowRequest{Name: name, Id: id})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(resp)
	}
	c.noteStale(resp.GetStaleness())
	if err := c.showFile(resp.GetFile()); err != nil {
		return err
	}
	if err := c.showHoldings(resp); err != nil {
		return err
	}
	return c.showVersions(resp)
}

func (c *cli) showFile(f *v1.File) error {
	replicas := fmt.Sprint(f.GetReplicas())
	if f.GetReplicas() == 0 {
		replicas = "all hosts"
	}
	made := copies(f.GetCopiesMade(), f.GetCopiesWanted())
	if n := f.GetShardsMissingCopies(); n > 0 {
		made += fmt.Sprintf(" (%d of %s miss copies)", n, plural(f.GetShards(), "shard"))
	}
	t := newTable(c.stdout)
	t.row("Name", f.GetName())
	t.row("Version", f.GetId())
	t.row("Size", fmt.Sprintf("%s (%d bytes), %s of data", size(f.GetSize()), f.GetSize(), size(f.GetDataBytes())))
	t.row("Chunks", fmt.Sprintf("of %s, in %s", size(uint64(f.GetChunkSize())), plural(f.GetShards(), "shard")))
	t.row("Replicas", replicas)
	t.row("Copies", made)
	t.row("Guests", f.GetGuests())
	t.row("Published", fmt.Sprintf("%s at %s", when(f.GetPublishedAt()), f.GetPublisher()))
	return t.flush()
}

func (c *cli) showHoldings(resp *v1.ShowResponse) error {
	fmt.Fprintln(c.stdout)
	t := newTable(c.stdout, "HOST", "STATE", "SHARDS", "HOME", "HELD", "WANTED")
	for _, h := range resp.GetHoldings() {
		wanted := "shards"
		switch {
		case h.GetTarget():
			wanted = "whole"
		case h.GetHomeShards() == 0:
			wanted = "-"
		}
		shards := fmt.Sprintf("%d of %d", h.GetShards(), resp.GetFile().GetShards())
		t.row(h.GetHost(), word(h.GetState()), shards, h.GetHomeShards(), size(h.GetBytes()), wanted)
	}
	return t.flush()
}

func (c *cli) showVersions(resp *v1.ShowResponse) error {
	if len(resp.GetVersions()) < 2 {
		return nil
	}
	fmt.Fprintln(c.stdout)
	t := newTable(c.stdout, "VERSION", "SIZE", "COPIES", "PUBLISHED", "PUBLISHER")
	for _, v := range resp.GetVersions() {
		t.row(shortID(v.GetId()), size(v.GetSize()), copies(v.GetCopiesMade(), v.GetCopiesWanted()),
			when(v.GetPublishedAt()), v.GetPublisher())
	}
	return t.flush()
}
