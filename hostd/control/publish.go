package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// DefaultReplicas is how many hosts keep each shard unless the publisher asks otherwise.
	DefaultReplicas = 2
)

// Publication is a request to publish a file.
type Publication struct {
	Path      string // on this machine; empty for PublishFrom
	Name      string
	Replicas  *int   // 0 is every host; nil means DefaultReplicas
	Guests    string // who among the guests may read it; empty means none
	Committed bool   // the caller waits for the catalogue alone, not for the copies
	ChunkSize int    // bytes; 0 leaves it to the store
	Force     bool   // a block device is published also while somebody writes to it

	Expect content.Digest // if set, what is read must be this
}

// PublishPhase says what a publication is doing.
type PublishPhase int

// The phases, in their order. The API's enum PublishPhase has the same numbers.
const (
	PublishHashing PublishPhase = iota + 1
	PublishCommitted
	PublishReplicating
	PublishDone
)

// PublishProgress says how far a publication is.
type PublishProgress struct {
	Phase        PublishPhase
	Done, Total  int64   // bytes: read while hashing, of all copies afterwards; a total of 0 is not known
	Rate         float64 // bytes a second
	CopiesWanted int
	CopiesMade   int
	Result       *Published // from PublishCommitted on
}

// Published is what was published.
type Published struct {
	Ref
	Size, DataBytes int64
	Index           uint64 // of the catalogue's entry
	CatalogueCopies int    // hosts that vote: of a name acknowledged, more than half of them have it on disk
}

// Publish makes a file of this machine a version of a name, and reports how its copies come about. The source must not
// change meanwhile. When it returns nil, the last report said how many copies there are.
func (f *Files) Publish(ctx context.Context, p Publication, report func(PublishProgress) error) error {
	publish, err := checkPublish(p)
	if err != nil {
		return err
	}
	in, done, err := f.openIntake(p.Path, p.Force)
	if err != nil {
		return err
	}
	defer done()
	for {
		file, unpin, err := f.takeIn(ctx, p, in, report)
		if errors.Is(err, errMeanwhile) {
			continue
		}
		if err != nil {
			return intakeError(err, p.Path)
		}
		defer unpin()
		return f.publishFile(ctx, publish, file, p.Committed, report)
	}
}

// PublishFrom is Publish for bytes that come from somewhere else than a file, up to io.EOF.
func (f *Files) PublishFrom(ctx context.Context, p Publication, r io.Reader, report func(PublishProgress) error) error {
	publish, err := checkPublish(p)
	if err != nil {
		return err
	}
	in := func(ctx context.Context, o store.ImportOptions) (*store.File, error) {
		return f.Store.ImportStream(ctx, "what the caller sends", r, o)
	}
	file, unpin, err := f.takeIn(ctx, p, in, report)
	if errors.Is(err, errMeanwhile) {
		return reason.Wrap(reason.Interrupted, p.Name, err)
	}
	if err != nil {
		return intakeError(err, p.Name)
	}
	defer unpin()
	return f.publishFile(ctx, publish, file, p.Committed, report)
}

// intakeError explains why a source could not be taken in.
func intakeError(err error, subject string) error {
	if errors.Is(err, store.ErrTooLarge) {
		return reason.Wrap(reason.Usage, subject, err).WithHint("take larger chunks (`chunk_size`), up to 16 MiB, or leave their size to the daemon")
	}
	return reason.Explain(err, subject)
}

// publishFile makes a complete file of the store a version of a name, and reports how its copies come about.
func (f *Files) publishFile(ctx context.Context, cmd *placement.Publish, file *store.File, committed bool, report func(PublishProgress) error) error {
	m := file.Manifest()
	cmd.ID, cmd.Size, cmd.DataBytes = file.ID(), m.Size(), m.DataBytes()
	cmd.ChunkSize, cmd.Shards = m.ChunkSize(), max(1, m.Shards())
	cmd.Publisher, cmd.At = f.Self, f.Now().Unix()
	done, err := f.write(ctx, placement.Command{Publish: cmd}, cmd.Name)
	if err != nil {
		return err
	}
	f.Keeper.Remember(file)
	result := &Published{Ref: Ref{cmd.Name, cmd.ID}, Size: m.Size(), DataBytes: m.DataBytes(), Index: done.Index,
		CatalogueCopies: len(f.Node.Status().Voters)}
	return f.awaitCopies(ctx, file, result, committed, report)
}

// checkPublish checks a request as far as that can be done without the file.
func checkPublish(req Publication) (*placement.Publish, error) {
	p := &placement.Publish{Name: req.Name, Replicas: DefaultReplicas, Guests: req.Guests}
	if err := placement.ValidateName(p.Name); err != nil {
		return nil, reason.Explain(err, fmt.Sprintf("%.200q", p.Name))
	}
	if p.Guests == "" {
		p.Guests = "none"
	}
	if err := placement.ValidateGuests(p.Guests); err != nil {
		return nil, reason.Explain(err, "`guests`")
	}
	if req.Replicas != nil {
		p.Replicas = *req.Replicas
	}
	if p.Replicas > placement.MaxReplicas {
		return nil, reason.Wrap(reason.Usage, "`replicas`", fmt.Errorf("%d is more than %d; take 'all' for every host", p.Replicas, placement.MaxReplicas))
	}
	size := req.ChunkSize
	if size != 0 && (size < content.MinChunkSize || size > content.MaxChunkSize || size&(size-1) != 0) {
		return nil, reason.Wrap(reason.Usage, "`chunk_size`", fmt.Errorf("%d is not a power of two from 64 KiB to 16 MiB", size))
	}
	return p, nil
}

// takeIn imports a source into the store and pins it there until it is in the catalogue. errMeanwhile: it was there
// before, and somebody removed its last name just before the pin.
func (f *Files) takeIn(ctx context.Context, p Publication, in intake, report func(PublishProgress) error) (*store.File, func(), error) {
	pace := newPace()
	file, err := in(ctx, store.ImportOptions{ChunkSize: p.ChunkSize, Progress: func(done, total int64) {
		pace.tick(done, func(rate float64) {
			// If the caller is gone, ctx ends and with it the import.
			report(PublishProgress{Phase: PublishHashing, Done: done, Total: total, Rate: rate})
		})
	}})
	if err != nil {
		return nil, nil, err
	}
	unpin := f.Keeper.Pin(file.ID())
	if _, ok := f.Store.Get(file.ID()); !ok {
		unpin()
		return nil, nil, errMeanwhile
	}
	if !p.Expect.IsZero() && file.ID() != p.Expect {
		unpin()
		return nil, nil, reason.Wrap(reason.DamagedData, p.Name, fmt.Errorf("it has become %s, and was %s", file.ID(), p.Expect)).
			WithHint("nothing was published; take another copy of it, or publish it as it is now")
	}
	return file, unpin, nil
}

// awaitCopies reports how the copies of a publication come about, and returns once there are as many as the live hosts
// can give.
func (f *Files) awaitCopies(ctx context.Context, file *store.File, result *Published, committed bool, report func(PublishProgress) error) error {
	phase := PublishCommitted
	sizes := shardSizes(file.Manifest())
	pace := newPace()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		changed := f.Node.Changed()
		r, done, total, err := f.copies(file.ID(), sizes)
		if err != nil {
			return reason.Explain(fmt.Errorf("it was removed while its copies were made: %w", err), result.Name)
		}
		enough := r.MinCopies >= r.Possible
		event := PublishProgress{
			Phase: phase, Done: done, Total: total, CopiesWanted: r.Wanted, CopiesMade: r.MinCopies, Result: result,
		}
		switch {
		case phase == PublishCommitted:
			err = report(event)
			phase = PublishReplicating
			if committed || enough {
				event.Phase = PublishDone
				return errors.Join(err, report(event))
			}
		case enough:
			event.Phase = PublishDone
			return report(event)
		default:
			pace.tick(done, func(rate float64) {
				event.Rate = rate
				err = report(event)
			})
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-poll.C: // a host may have died without the catalogue knowing yet
		}
	}
}

// copies says how far a content's copies are, in bytes of data of all copies too; sizes are those of its shards.
func (f *Files) copies(id content.Digest, sizes []int64) (r placement.Replication, done, total int64, err error) {
	f.Node.View(func(s *placement.State) {
		var ok bool
		if r, ok = s.Replication(id); !ok {
			err = placement.ErrNoContent
			return
		}
		for shard, bytes := range sizes {
			for _, home := range s.Homes(id, shard) {
				total += bytes
				if s.Held(home, id).Has(shard) {
					done += bytes
				}
			}
		}
	})
	return r, done, total, err
}

// shardSizes gives the bytes of data in each shard, without the holes.
func shardSizes(m *content.Manifest) []int64 {
	sizes := make([]int64, m.Shards())
	m.Data(func(i int, _ content.Digest) bool {
		sizes[m.ShardOf(i)] += int64(m.ChunkLen(i))
		return true
	})
	return sizes
}
