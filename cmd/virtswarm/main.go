// Command virtswarm is the operator's hand on a host: it asks the daemon over its unix socket to publish, pull
// and distribute files and to tell about the cluster.
//
// It promises that its exit codes and --json shapes (docs/operations.md) stay as they are, that an error says
// what happened, to what, and what to do next, and that nothing but results is written to standard output.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // whoever is in a hurry and interrupts twice is not kept waiting
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &cli{stdout: output{stdout}, stderr: stderr}
	defer c.close()
	root := newRoot(c)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if coded, ok := errors.AsType[*codedError](err); ok {
		if coded.err != nil {
			c.printError(coded.err)
		}
		return coded.code
	}
	if _, ok := errors.AsType[*verbError](err); !ok {
		// Only cobra fails outside a verb, and only about what was typed.
		err = reason.Wrap(reason.Usage, err.Error(), nil)
	}
	if ctx.Err() != nil {
		err = reason.Wrap(reason.Interrupted, "", nil)
	}
	c.printError(err)
	return api.ExitCode(err)
}
