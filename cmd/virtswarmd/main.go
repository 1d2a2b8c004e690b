// Command virtswarmd is the host daemon: it makes or joins a cluster, stores files, and moves them between hosts.
//
//	virtswarmd [--config FILE] [--data DIR] [--listen ADDR] [--socket PATH] [--join ADDR --token T]
//
// It logs to standard error and tells systemd when it is ready. Exit codes are those of docs/operations.md; 0 means
// that it was told to stop, or that this host has left the cluster.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/hostd"
	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func main() {
	// Neither the end of who reads the log nor that of a terminal is a reason to stop serving guests; systemd would take
	// both for an end in good order, after which nothing is started again.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	e := api.AsError(err)
	fmt.Fprintf(os.Stderr, "virtswarmd: %s\n", reason.Flags(e.Error()))
	if next := e.Next(); next != "" {
		fmt.Fprintf(os.Stderr, "  %s\n", reason.Flags(next))
	}
	os.Exit(api.ExitCode(err))
}

// command is the daemon's command line.
func command() *cobra.Command {
	var config string
	var flags hostd.Config
	cmd := &cobra.Command{
		Use:           "virtswarmd",
		Short:         "virtswarm's host daemon",
		Long:          "virtswarmd makes this machine a host of a virtswarm cluster.\nThe first daemon makes a cluster by itself; others join with a token that 'virtswarm token' prints at a member.",
		Example:       "  virtswarmd\n  virtswarmd --join hv1:7117 --token vst1.…\n  virtswarmd --config /etc/virtswarm/virtswarm.yaml",
		Args:          cobra.NoArgs,
		Version:       api.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := hostd.LoadConfig(config)
			if err != nil {
				return reason.Explain(err, "")
			}
			if err := override(&cfg, flags); err != nil {
				return err
			}
			return run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "YAML file; see packaging/virtswarm.yaml for every key")
	f.StringVar(&flags.Data, "data", "", "directory that holds everything (default "+hostd.DefaultData+")")
	f.StringVar(&flags.Listen, "listen", "", "address of the one port that other hosts reach (default "+hostd.DefaultListen+")")
	f.StringVar(&flags.Advertise, "advertise", "", "host:port that other hosts use to reach it (default: this machine's first address)")
	f.StringVar(&flags.Socket, "socket", "", "unix socket of the local API (default "+api.DefaultSocket+")")
	f.StringVar(&flags.Name, "name", "", "what operators call this host (default: the machine's host name)")
	f.StringVar(&flags.Join, "join", "", "host:port of a member; needed once, at the first start")
	f.StringVar(&flags.Token, "token", "", "one-time join token; 'virtswarm token' at a member prints one")
	cmd.AddCommand(recoverCommand())
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return reason.Wrap(reason.Usage, "", err) })
	return cmd
}

// override puts what was said on the command line over what the file says. A directory there is seen from the working
// directory, as everywhere on a command line; one in the file is not, since it means the same wherever it is read.
func override(cfg *hostd.Config, flags hostd.Config) error {
	if flags.Data != "" {
		abs, err := disk.Abs(flags.Data)
		if err != nil {
			return reason.Wrap(reason.Usage, fmt.Sprintf("%.300q", flags.Data), err).WithHint("name it by an absolute path")
		}
		flags.Data = abs
	}
	for _, o := range []struct{ to, from *string }{
		{&cfg.Data, &flags.Data}, {&cfg.Listen, &flags.Listen}, {&cfg.Advertise, &flags.Advertise}, {&cfg.Socket, &flags.Socket},
		{&cfg.Name, &flags.Name}, {&cfg.Join, &flags.Join}, {&cfg.Token, &flags.Token},
	} {
		if *o.from != "" {
			*o.to = *o.from
		}
	}
	return nil
}

func run(ctx context.Context, cfg hostd.Config) error {
	if err := cfg.Validate(); err != nil {
		return reason.Explain(err, "")
	}
	logger := hclog.New(&hclog.LoggerOptions{
		Name: "virtswarmd", Level: hclog.LevelFromString(cfg.Log.Level), JSONFormat: cfg.Log.JSON, Output: os.Stderr,
	})
	host, err := hostd.New(ctx, cfg, hostd.Options{
		Version: api.Version(), Logger: logger, FS: dataDisk(),
		Ready: func() { notify(logger, daemon.SdNotifyReady) },
	})
	if err != nil {
		return reason.Explain(err, "")
	}
	defer notify(logger, daemon.SdNotifyStopping)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go watch(watching, host, cfg.Socket, logger)
	return reason.Explain(host.Run(ctx), "")
}

// notify tells systemd, if it wants to know.
func notify(logger hclog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		logger.Warn("cannot notify systemd", "error", err)
	}
}
