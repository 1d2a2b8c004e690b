// Command virtswarm-agent is the guest's end of virtswarm: it pulls files from the host and publishes files of the
// guest, over vsock or shared memory.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// version is set when a release is built.
var version = "dev"

// Exit codes.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitNoLink  = 3 // no host can be reached
	exitNoFile  = 4 // no such file that this domain may read
	exitDenied  = 5 // the domain may not publish this, or not so much
	exitExists  = 6 // the destination exists
	exitCorrupt = 7 // bytes do not match their digest
	exitSpace   = 8 // no room, here or at the host
	exitVersion = 9 // the host speaks another version of the guest link
)

// memoryLimit keeps the collector from letting the heap grow, in bytes: chunks are all that is held.
const memoryLimit = 24 << 20

func main() {
	debug.SetMemoryLimit(memoryLimit)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr *os.File) int {
	c := &cli{stdout: stdout, stderr: stderr}
	root := newRoot(c)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "virtswarm-agent: interrupted")
		return exitFailed
	}
	fmt.Fprintf(stderr, "virtswarm-agent: %v\n", err)
	code, hint := explain(err)
	if hint != "" {
		fmt.Fprintln(stderr, hint)
	}
	return code
}

// failures are the errors that have an exit code of their own, and what to do about them.
var failures = []struct {
	err  error
	code int
	hint string
}{
	{errUsage, exitUsage, "see: virtswarm-agent --help"},
	{&guestlink.Failure{Code: guestlink.CodeNotFound}, exitNoFile, "see what there is for this domain: virtswarm-agent ls"},
	{&guestlink.Failure{Code: guestlink.CodeDenied}, exitDenied, ""},
	{&guestlink.Failure{Code: guestlink.CodeQuota}, exitDenied, "the operator of the host can raise the quota, or remove files of this domain"},
	{&guestlink.Failure{Code: guestlink.CodeSpace}, exitSpace, ""},
	{&guestlink.Failure{Code: guestlink.CodeCorrupt}, exitCorrupt, "publish a file that nobody writes to"},
	{&guestlink.Failure{Code: guestlink.CodeVersion}, exitVersion, "install the agent of the host's version, or ask its operator to update the host"},
	{guestagent.ErrExists, exitExists, "choose another destination, or take --force"},
	{guestagent.ErrCorrupt, exitCorrupt, "the operator of the host can check its files: virtswarm scrub"},
	{syscall.ENOSPC, exitSpace, "there is no room for the file here"},
	{guestagent.ErrNoLink, exitNoLink, "the operator of the host can look whether virtswarmd runs there, and whether the domain has a vsock device or\nshared memory: virtswarm guest attach-shm DOMAIN"},
}

// explain returns the exit code of an error and what to do about it.
func explain(err error) (code int, hint string) {
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return f.code, f.hint
		}
	}
	return exitFailed, ""
}
