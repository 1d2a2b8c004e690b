package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

const (
	// hookNamespace is that of virtswarm's metadata: a definition in which it does not stand needs nothing.
	hookNamespace = "urn:virtswarm:domain:1"
	// maxHookXML bounds a domain's definition, in bytes; libvirt's own bound is of that order.
	maxHookXML = 16 << 20
	// defaultHookDeadline is how long files may take to come.
	defaultHookDeadline = 10 * time.Minute
	defaultConfig       = "/etc/virtswarm/virtswarm.yaml"
)

// hookOperations are those of libvirt's at which a domain is about to come to this host. At all others there is nothing
// to do.
var hookOperations = []string{"prepare", "migrate", "restore"}

// hookConfig is the part of the daemon's configuration that counts also when the daemon does not run.
type hookConfig struct {
	Socket string `yaml:"socket"`
	Hook   struct {
		OnFailure string        `yaml:"on_failure"`
		Deadline  time.Duration `yaml:"deadline"`
	} `yaml:"hook"`
}

func newHook(c *cli) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:     "hook [--] DOMAIN OPERATION [SUBOPERATION [EXTRA]]",
		GroupID: groupCluster,
		Short:   "What libvirt's qemu hook calls before a domain starts",
		Long: `Hook is for /etc/libvirt/hooks/qemu.d: libvirt calls it with a domain's definition on standard input. Before a
domain starts, is restored or arrives by a migration, it makes the files present that the domain's metadata names, and
lets libvirt go on; if that fails, libvirt refuses the start and shows the reason. With "hook: {on_failure: allow}" in the
configuration the domain starts all the same, and the reason is only logged.

At other operations, and for domains that need nothing, it does nothing and does not ask the daemon.`,
		Example: `  virsh dumpxml web1 | virtswarm hook web1 prepare begin -`,
		Args:    cobra.RangeArgs(2, 4),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.hook(cmd.Context(), config, args[0], args[1], cmd.InOrStdin())
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&config, "config", defaultConfig, "the daemon's configuration, for hook and socket")
	cmd.AddCommand(newHookCancel(c))
	return cmd
}

func (c *cli) hook(ctx context.Context, configPath, domain, operation string, stdin io.Reader) error {
	if !slices.Contains(hookOperations, operation) {
		return nil
	}
	xml, err := io.ReadAll(io.LimitReader(stdin, maxHookXML+1))
	if err != nil {
		return fmt.Errorf("read the definition of %s: %w", domain, err)
	}
	if !bytes.Contains(xml, []byte(hookNamespace)) {
		return nil
	}
	config, err := loadHookConfig(configPath)
	if err == nil {
		if c.socket == "" && os.Getenv(api.SocketVariable) == "" {
			c.socket = config.Socket
		}
		err = c.prepare(ctx, config.Hook.Deadline, domain, operation, xml)
	}
	// Who cancels a start wants it to end.
	if err != nil && config.Hook.OnFailure == "allow" && api.ReasonOf(err) != reason.Interrupted {
		c.printError(err)
		c.note("%s starts although not all that it needs is here (hook: {on_failure: allow})", quote(domain))
		return nil
	}
	return err
}

// prepare asks the daemon to make present what a domain needs.
func (c *cli) prepare(ctx context.Context, deadline time.Duration, domain, operation string, xml []byte) error {
	if len(xml) > maxHookXML {
		return usageError("the definition of %s has more than %d bytes", quote(domain), maxHookXML)
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var last *v1.PrepareProgress
	stream, err := c.host().Control.Prepare(ctx, &v1.PrepareRequest{Domain: domain, Operation: operation, Xml: xml})
	err = events(stream, err, func(p *v1.PrepareProgress) error {
		last = p
		return nil
	})
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		subject := domain
		if last != nil {
			subject = fmt.Sprintf("%s: %s of %s", last.GetName(), size(last.GetHave()), size(last.GetTotal()))
		}
		return reason.Wrap(reason.Unreachable, subject, fmt.Errorf("not here after %v", deadline)).
			WithHint("start it again: what has come stays; or give it more time with hook: {deadline: ...} in the configuration")
	case err == nil && !last.GetDone():
		return errNoEnd
	}
	return err
}

// loadHookConfig reads what concerns the hook; what is wrong with the rest, the daemon says.
func loadHookConfig(path string) (hookConfig, error) {
	var config hookConfig
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, &config)
	}
	if errors.Is(err, fs.ErrNotExist) && path == defaultConfig {
		err = nil
	}
	if config.Hook.Deadline == 0 {
		config.Hook.Deadline = defaultHookDeadline
	}
	switch config.Hook.OnFailure {
	case "", "refuse", "allow":
	default:
		err = errors.Join(err, fmt.Errorf("hook.on_failure: %q is neither refuse nor allow", config.Hook.OnFailure))
	}
	if err != nil {
		return config, reason.Wrap(reason.InvalidConfig, path, err)
	}
	return config, nil
}
