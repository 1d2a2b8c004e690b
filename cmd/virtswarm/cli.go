package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// cli is what the verbs share.
type cli struct {
	stdout, stderr io.Writer
	socket         string
	json           bool

	client *api.Client
}

const (
	groupFiles   = "files"
	groupCluster = "cluster"
)

func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "virtswarm",
		Short: "Share files among the hosts of a virtswarm cluster",
		Long: `virtswarm asks the daemon of this host, virtswarmd, to publish files, to fetch them and to
tell about the cluster.

Exit codes say what went wrong, --json makes output for programs; docs/operations.md lists both.`,
		Example: `  virtswarm publish /var/lib/images/debian-12.raw images/debian-12.raw
  virtswarm distribute images/debian-12.raw --to all --watch
  virtswarm pull images/debian-12.raw /srv/debian-12.raw`,
		Version:       api.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.PersistentFlags().StringVar(&c.socket, "socket", "",
		"socket of the daemon (default $"+api.SocketVariable+", else "+api.DefaultSocket+")")
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON: one object, or one line for each event")
	root.AddGroup(&cobra.Group{ID: groupFiles, Title: "Files:"}, &cobra.Group{ID: groupCluster, Title: "Cluster:"})
	for _, verb := range []func(*cli) *cobra.Command{
		newPublish, newPull, newDistribute, newUnpin, newLs, newShow, newRm, newExport, newImport, newStrays, newAdopt, newVerify, newScrub,
		newHosts, newHost, newStatus, newHealth, newInit, newJoin, newToken, newCA, newDrain, newUndrain, newLeave, newCatalogue,
		newGuests, newGuest, newPrefetch, newHook,
	} {
		cmd := verb(c)
		for _, sub := range append(cmd.Commands(), cmd) {
			sub.RunE = asVerb(sub.RunE)
		}
		root.AddCommand(cmd)
	}
	return root
}

// verbError marks what a verb returned, to tell it from what cobra has to say about the command line.
type verbError struct{ err error }

func (e *verbError) Error() string { return e.err.Error() }
func (e *verbError) Unwrap() error { return e.err }

func asVerb(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := run(cmd, args); err != nil {
			return &verbError{err}
		}
		return nil
	}
}

func usageError(format string, args ...any) error {
	return reason.Wrap(reason.Usage, fmt.Sprintf(format, args...), nil)
}

// host returns the daemon that is asked.
func (c *cli) host() *api.Client {
	if c.client == nil {
		c.client = api.NewUnixClient(api.SocketPath(c.socket))
	}
	return c.client
}

func (c *cli) close() {
	if c.client != nil {
		c.client.Close()
	}
}

// errNoEnd is a stream that ended well but without its last event: the daemon speaks another version.
var errNoEnd = reason.Sentinel(reason.Unreachable, "the daemon stopped reporting before the end")

// events calls each for every event of a stream.
func events[T any](stream *connect.ServerStreamForClient[T], err error, each func(*T) error) error {
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if err := each(stream.Msg()); err != nil {
			return err
		}
	}
	return stream.Err()
}

// printJSON writes one object on one line of standard output.
func (c *cli) printJSON(m proto.Message) error { return writeJSON(c.stdout, m) }

func writeJSON(w io.Writer, m proto.Message) error {
	_, err := w.Write(append(api.JSON(m), '\n'))
	return err
}

// word gives a value of an enum as --json does: HOST_STATE_ALIVE is "alive".
func word(e protoreflect.Enum) string { return api.Word(e.Descriptor(), e.Number()) }

// note tells the operator something beside the result.
func (c *cli) note(format string, args ...any) {
	fmt.Fprintf(c.stderr, "virtswarm: "+format+"\n", args...)
}

// noteStale says so if an answer may be old. With --json the answer says it itself.
func (c *cli) noteStale(s *v1.Staleness) {
	if s.GetStale() && !c.json {
		c.note("note: this may be out of date: the host has heard no leader for %v and knows the catalogue up to entry %d",
			time.Duration(math.Round(s.GetSecondsWithoutLeader()))*time.Second, s.GetIndex())
	}
}

// printError tells what happened, to what, and what to do next.
func (c *cli) printError(err error) {
	e := api.AsError(err)
	if c.json {
		_ = writeJSON(c.stderr, &v1.Failure{Error: detail(e)}) // there is nowhere else to tell it
		return
	}
	head := e.Reason.Explain().Sentence
	if e.Subject != "" {
		head += ": " + reason.Flags(e.Subject)
	}
	c.note("%s", head)
	if e.Err != nil {
		fmt.Fprintf(c.stderr, "  why:  %s\n", reason.Flags(e.Err.Error()))
	}
	fmt.Fprintf(c.stderr, "  next: %s\n", reason.Flags(e.Next()))
}

// detail gives an error in the API's words, with flags where the daemon names fields.
func detail(e *reason.Error) *v1.ErrorDetail {
	d := api.Detail(e)
	d.Subject, d.Cause, d.Hint = reason.Flags(d.GetSubject()), reason.Flags(d.GetCause()), reason.Flags(d.GetHint())
	return d
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
