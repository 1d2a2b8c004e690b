package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/guestagent"
)

var errUsage = errors.New("it is used in another way")

func usageError(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errUsage)
}

// cli is what the commands share.
type cli struct {
	stdout, stderr *os.File
	json, verbose  bool
	link           string
	patience       time.Duration
}

func (c *cli) agent() *guestagent.Agent {
	a := &guestagent.Agent{Link: c.link, Patience: c.patience, Version: version}
	if c.verbose {
		a.Logger = hclog.New(&hclog.LoggerOptions{Output: c.stderr, Level: hclog.Debug})
	}
	return a
}

func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "virtswarm-agent",
		Short: "Files from this machine's host, and to it",
		Long: `virtswarm-agent runs in a virtual machine. It gets files that the operator gave to this machine from its own host, over
shared memory or vsock, without a network, and publishes files of this machine to the hosts. There is nothing to configure.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no host can be reached; 4 no such file for this machine; 5 this machine may
not publish this, or not so much; 6 the destination exists; 7 bytes do not match their digest; 8 no room;
9 the host speaks another version of the guest link.`,
		Version:           version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.BoolVar(&c.json, "json", false, "print JSON")
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "say what is done to reach the host")
	flags.StringVar(&c.link, "link", "", "take this link: shm:///sys/bus/pci/devices/…/resource2, vsock://2:7117, unix:///path")
	flags.DurationVar(&c.patience, "patience", guestagent.DefaultPatience, "how long to try to reach the host; less than 0: once")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError("%v", err) })
	root.AddCommand(newLs(c), newPull(c), newPush(c), newSync(c), newStatus(c), newPing(c))
	return root
}

// args makes an error of cobra's about arguments one of usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if err := check(cmd, list); err != nil {
			return usageError("%v", err)
		}
		return nil
	}
}

func (c *cli) printJSON(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
