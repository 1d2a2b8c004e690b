package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

const (
	// completionWait is what a press of the tab key may take; completions limits what it shows.
	completionWait = time.Second
	completions    = 200
)

func must(err error) {
	if err != nil {
		panic(err) // a flag that the same function declared is not there
	}
}

func completeFlag(cmd *cobra.Command, flag string, values ...string) {
	must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

// completeName offers names of the catalogue for a first argument. What cannot be asked is not offered:
// an error has no place on a line that is being typed.
func (c *cli) completeName(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	const done = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, done
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionWait)
	defer cancel()
	page, err := c.host().Control.List(ctx, &v1.ListRequest{Prefix: typed, Limit: completions})
	if err != nil {
		return nil, done
	}
	return list(page.GetFiles(), (*v1.File).GetName), done
}

// completeRef offers names, and behind an @ the versions of the name before it.
func (c *cli) completeRef(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	name, _, ok := cutLast(typed, "@")
	if !ok || len(args) > 0 {
		return c.completeName(cmd, args, typed)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionWait)
	defer cancel()
	resp, err := c.host().Control.Show(ctx, &v1.ShowRequest{Name: name})
	if err != nil {
		return c.completeName(cmd, args, typed) // names may have an @ of their own
	}
	var found []string
	for _, v := range resp.GetVersions() {
		if r := name + "@" + v.GetId(); strings.HasPrefix(r, typed) {
			found = append(found, r)
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeHosts offers hosts for the last element of a list separated by commas.
func (c *cli) completeHosts(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	before, last, ok := cutLast(typed, ",")
	names := c.hostNames(cmd, last)
	if ok {
		return list(names, func(n string) string { return before + "," + n }), cobra.ShellCompDirectiveNoFileComp
	}
	if strings.HasPrefix("all", last) {
		names = append(names, "all")
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeHost offers hosts for a first argument.
func (c *cli) completeHost(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.hostNames(cmd, typed), cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) hostNames(cmd *cobra.Command, typed string) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionWait)
	defer cancel()
	resp, err := c.host().Control.Hosts(ctx, &v1.HostsRequest{})
	if err != nil {
		return nil
	}
	var names []string
	for _, h := range resp.GetHosts() {
		if strings.HasPrefix(h.GetName(), typed) {
			names = append(names, h.GetName())
		}
	}
	return names
}

// cutLast is strings.Cut at the last separator; without one, all of s is after it.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}
