package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// maxTokenTTL keeps forgotten tokens from being keys for ever.
const maxTokenTTL = 30 * 24 * time.Hour

func newToken(c *cli) *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "token",
		GroupID: groupCluster,
		Short:   "Make a token that admits one host to the cluster",
		Long: `Token prints a join token, and on a terminal the command to use it with. It admits one host, once, until
it expires. Treat it as a password.`,
		Example: `  virtswarm token
  virtswarm token --ttl 10m
  virtswarmd --join "$ADDRESS" --token "$(ssh alpha virtswarm token)"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ttl < time.Second || ttl > maxTokenTTL {
				return usageError("--ttl %v: it is a duration from 1s to %v, such as 30m", ttl, maxTokenTTL)
			}
			return c.token(cmd.Context(), ttl)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it may be used")
	return cmd
}

func (c *cli) token(ctx context.Context, ttl time.Duration) error {
	resp, err := c.host().Control.CreateToken(ctx, &v1.CreateTokenRequest{TtlSeconds: uint64(ttl / time.Second)})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(resp)
	}
	if _, err := fmt.Fprintln(c.stdout, resp.GetToken()); err != nil {
		return err
	}
	if isTerminal(c.stdout) && len(resp.GetAddresses()) > 0 {
		fmt.Fprintf(c.stderr, "\nUntil %s it admits one host:\n  virtswarmd --join %s --token %s\n",
			when(resp.GetExpiresAt()), resp.GetAddresses()[0], resp.GetToken())
	}
	return nil
}
