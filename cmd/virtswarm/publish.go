package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

type publishFlags struct {
	replicas, guests, wait, chunkSize string
	force                             bool
}

func newPublish(c *cli) *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use:     "publish FILE [NAME]",
		GroupID: groupFiles,
		Short:   "Put a file of this host into the cluster",
		Long: `Publish reads FILE into the store of this host, enters it in the catalogue under NAME (the base name
of FILE unless given) and waits until as many hosts hold it as asked for. Publishing other content under a
name that exists makes a new version of it. FILE may be a block device that nobody writes to, such as a logical
volume; and - is standard input, which needs a NAME.

If there are not enough hosts it warns, and exits with 21 if --replicas was given; the missing copies are
made once there are hosts for them.`,
		Example: `  virtswarm publish debian-12.raw
  virtswarm publish /srv/debian-12.raw images/debian-12.raw --replicas 3
  virtswarm publish secrets.tar --guests 'build-*' --wait committed
  virtswarm publish /dev/vg/vm7 images/vm7.raw
  tar c /etc | virtswarm publish - backup/etc.tar`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := publishRequest(args, f)
			if err != nil {
				return err
			}
			if args[0] == standard {
				return c.publishStream(cmd.Context(), req, stdin)
			}
			return c.publish(cmd.Context(), req)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return c.completeName(cmd, args[1:], typed)
		},
	}
	cmd.Flags().StringVar(&f.replicas, "replicas", "", "hosts that shall hold it: a number, or all (default 2)")
	cmd.Flags().StringVar(&f.guests, "guests", "none",
		"guests that may read it: none, all, tag:NAME, a pattern over domain names, or a UUID")
	cmd.Flags().StringVar(&f.wait, "wait", "replicated", "when to return: replicated, or as soon as committed to the catalogue")
	cmd.Flags().StringVar(&f.chunkSize, "chunk-size", "",
		"size of chunks, a power of two from 64KiB to 16MiB (default: by the size of the file)")
	cmd.Flags().BoolVar(&f.force, "force", false, "publish a block device also while somebody writes to it")
	completeFlag(cmd, "replicas", "1", "2", "3", "all")
	completeFlag(cmd, "guests", "none", "all", "tag:")
	completeFlag(cmd, "wait", "replicated", "committed")
	return cmd
}

func publishRequest(args []string, f publishFlags) (*v1.PublishRequest, error) {
	req := &v1.PublishRequest{Guests: f.guests, Force: f.force}
	var err error
	switch {
	case args[0] != standard:
		if req.Path, err = checkSource(args[0]); err != nil {
			return nil, err
		}
		req.Name = disk.Base(args[0])
	case len(args) < 2:
		return nil, usageError("what comes from standard input needs a name: virtswarm publish - NAME")
	}
	if len(args) == 2 {
		req.Name = args[1]
	}
	if strings.Contains(req.Name, idMark) {
		return nil, reason.Wrap(reason.InvalidName, req.Name, errors.New(idMark+" marks a version in commands"))
	}
	if err := checkText(req.Name); err != nil {
		return nil, err
	}
	if req.Replicas, err = parseReplicas(f.replicas); err != nil {
		return nil, err
	}
	if req.ChunkSize, err = parseChunkSize(f.chunkSize); err != nil {
		return nil, err
	}
	req.Wait, err = parseWait(f.wait)
	return req, err
}

func parseWait(s string) (v1.Wait, error) {
	switch s {
	case "replicated":
		return v1.Wait_WAIT_REPLICATED, nil
	case "committed":
		return v1.Wait_WAIT_COMMITTED, nil
	}
	return 0, usageError("--wait %s: it is replicated or committed", s)
}

// checkSource returns the absolute path of a file or block device that can be read. The daemon checks again, as the
// user that it runs as; this is for the clearest answer to a slip of the hand.
func checkSource(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", reason.Wrap(reason.SourceMissing, path, nil)
	case err != nil:
		return "", reason.Wrap(reason.SourceUnreadable, path, err)
	case disk.IsDevice(info): // to open it is the daemon's
		return absolute(path)
	case !info.Mode().IsRegular():
		return "", reason.Wrap(reason.SourceNotRegular, path, nil)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", reason.Wrap(reason.SourceUnreadable, path, err)
	}
	f.Close()
	return absolute(path)
}

// parseReplicas returns nil for nothing, which leaves the default to the daemon, and 0 for all.
func parseReplicas(s string) (*uint32, error) {
	var n uint32
	switch s {
	case "":
		return nil, nil
	case "all":
		return &n, nil
	}
	v, err := strconv.ParseUint(s, 10, 16)
	if err != nil || v == 0 {
		return nil, usageError("--replicas %s: it is a number of hosts from 1 on, or all", s)
	}
	n = uint32(v)
	return &n, nil
}

func parseChunkSize(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	const least, most = 64 << 10, 16 << 20
	if err != nil || n < least || n > most || n&(n-1) != 0 {
		return 0, usageError("--chunk-size %s: it is a power of two from 64KiB to 16MiB", s)
	}
	return uint32(n), nil
}

func (c *cli) publish(ctx context.Context, req *v1.PublishRequest) error {
	m := c.meter()
	defer m.clear()
	stream, err := c.host().Control.Publish(ctx, req)
	if err != nil {
		return err
	}
	defer stream.Close()
	last, err := c.publishing(m, func() (*v1.PublishProgress, error) {
		if stream.Receive() {
			return stream.Msg(), nil
		}
		return nil, cmp.Or(stream.Err(), io.EOF)
	})
	m.clear()
	if err != nil {
		return err
	}
	return c.published(req, last)
}

// publishing shows the events of a publication and returns the last.
func (c *cli) publishing(m *meter, next func() (*v1.PublishProgress, error)) (last *v1.PublishProgress, err error) {
	show := func(p *v1.PublishProgress) error {
		if c.json {
			return c.printJSON(p)
		}
		switch p.GetPhase() {
		case v1.PublishPhase_PUBLISH_PHASE_HASHING:
			m.show(step{label: "hashing", open: p.GetTotal() == 0, done: p.GetDone(), total: p.GetTotal(), rate: p.GetRate()})
		case v1.PublishPhase_PUBLISH_PHASE_REPLICATING:
			note := "copies " + copies(p.GetCopiesMade(), p.GetCopiesWanted())
			m.show(step{label: "replicating", done: p.GetDone(), total: p.GetTotal(), rate: p.GetRate(), note: note})
		}
		return nil
	}
	for {
		p, err := next()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err == nil {
			last, err = p, show(p)
		}
		if err != nil {
			return nil, err
		}
	}
}

// publishStream publishes what r gives.
func (c *cli) publishStream(ctx context.Context, req *v1.PublishRequest, r io.Reader) error {
	m := c.meter()
	defer m.clear()
	last, _, err := c.sendStream(ctx, m, req, r) // who reads r on is at the end with the process
	m.clear()
	if err != nil {
		return err
	}
	return c.published(req, last)
}

// pieceBytes is how much of a stream is sent at a time.
const pieceBytes = 1 << 20

// sendStream sends what r gives and shows what becomes of it. r is read until sent is closed: if the host refuses it,
// as soon as a read returns.
func (c *cli) sendStream(ctx context.Context, m *meter, req *v1.PublishRequest, r io.Reader) (last *v1.PublishProgress, sent <-chan struct{}, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	stream, err := c.host().Control.PublishStream(ctx)
	if err != nil {
		close(done)
		return nil, done, err
	}
	defer stream.CloseResponse()
	go func() {
		defer close(done)
		if err := sendPieces(stream.Send, req, r); err != nil {
			cancel(err) // nothing is published without the last piece
			return
		}
		_ = stream.CloseRequest() // the answer says what became of it
	}()
	last, err = c.publishing(m, stream.Receive)
	if cause, ok := errors.AsType[*reason.Error](context.Cause(ctx)); ok && err != nil && api.ReasonOf(err) == reason.Interrupted {
		err = cause
	}
	return last, done, err
}

// sendPieces sends a request and the bytes of r. A stream that the host has ended is no error: the host says why.
func sendPieces(send func(*v1.PublishChunk) error, req *v1.PublishRequest, r io.Reader) error {
	piece := &v1.PublishChunk{Request: req}
	for {
		if err := send(piece); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if piece.GetEnd() {
			return nil
		}
		p, err := readPiece(r)
		if err != nil && err != io.EOF {
			return readError(err)
		}
		piece = &v1.PublishChunk{Data: p, End: err == io.EOF}
	}
}

// readPiece reads as much as makes a piece, and io.EOF with the last one. io.ReadFull would take a reader that was cut
// off for one that has ended.
func readPiece(r io.Reader) ([]byte, error) {
	p := make([]byte, pieceBytes)
	for n := 0; ; {
		k, err := r.Read(p[n:])
		if n += k; err != nil || n == len(p) {
			return p[:n], err
		}
	}
}

// published tells the result and judges whether there are enough copies.
func (c *cli) published(req *v1.PublishRequest, p *v1.PublishProgress) error {
	if p.GetPhase() != v1.PublishPhase_PUBLISH_PHASE_DONE {
		return errNoEnd
	}
	r := p.GetResult()
	if !c.json {
		t := newTable(c.stdout)
		t.row(r.GetName()+idMark[:1]+r.GetId(), size(r.GetSize()), copiesMade(req, p))
		if err := t.flush(); err != nil {
			return err
		}
	}
	if req.GetWait() == v1.Wait_WAIT_COMMITTED || p.GetCopiesMade() >= p.GetCopiesWanted() {
		return nil
	}
	made := errors.New(copies(p.GetCopiesMade(), p.GetCopiesWanted()) + " copies made")
	short := reason.Wrap(reason.TooFewCopies, r.GetName(), made)
	if req.Replicas != nil {
		return short
	}
	if !c.json {
		c.note("warning: %v", short)
	}
	return nil
}

func copiesMade(req *v1.PublishRequest, p *v1.PublishProgress) string {
	if req.GetWait() == v1.Wait_WAIT_COMMITTED && p.GetCopiesMade() < p.GetCopiesWanted() {
		return "committed, its copies follow"
	}
	if p.GetCopiesMade() == 1 {
		return "1 copy"
	}
	return fmt.Sprintf("%d copies", p.GetCopiesMade())
}
