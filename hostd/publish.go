package hostd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// DefaultReplicas is how many hosts keep each shard unless the publisher asks otherwise.
	DefaultReplicas = 2
	// writePatience bounds a write to the catalogue: several elections, no more.
	writePatience = 15 * time.Second
)

// Publish implements server.Host.
func (h *Host) Publish(ctx context.Context, req *v1.PublishRequest, send func(*v1.PublishProgress) error) error {
	publish, err := checkPublish(req)
	if err != nil {
		return err
	}
	source, err := openSource(req.GetPath())
	if err != nil {
		return err
	}
	defer source.Close()
	file, unpin, err := h.takeIn(ctx, source, int(req.GetChunkSize()), send)
	if err != nil {
		return reason.Explain(err, req.GetPath())
	}
	defer unpin()
	return h.publishFile(ctx, publish, file, req.GetWait() == v1.Wait_WAIT_COMMITTED, send)
}

// publishFile makes a complete file of the store a version of a name, and reports how its copies come about.
func (h *Host) publishFile(ctx context.Context, cmd *placement.Publish, file *store.File, committed bool, send func(*v1.PublishProgress) error) error {
	m := file.Manifest()
	cmd.ID, cmd.Size, cmd.DataBytes = file.ID(), m.Size(), m.DataBytes()
	cmd.ChunkSize, cmd.Shards = m.ChunkSize(), max(1, m.Shards())
	cmd.Publisher, cmd.At = h.self, time.Now().Unix()
	done, err := h.write(ctx, placement.Command{Publish: cmd}, cmd.Name)
	if err != nil {
		return err
	}
	h.keeper.Remember(file)
	result := &v1.PublishResult{
		Name: cmd.Name, Id: cmd.ID.String(), Size: uint64(m.Size()), DataBytes: uint64(m.DataBytes()), Index: done.Index,
	}
	return h.awaitCopies(ctx, file, result, committed, send)
}

// checkPublish checks a request as far as that can be done without the file.
func checkPublish(req *v1.PublishRequest) (*placement.Publish, error) {
	p := &placement.Publish{Name: req.GetName(), Replicas: DefaultReplicas, Guests: req.GetGuests()}
	if err := placement.ValidateName(p.Name); err != nil {
		return nil, reason.Explain(err, fmt.Sprintf("%.200q", p.Name))
	}
	if p.Guests == "" {
		p.Guests = "none"
	}
	if err := placement.ValidateGuests(p.Guests); err != nil {
		return nil, reason.Explain(err, "--guests")
	}
	if req.Replicas != nil {
		p.Replicas = int(req.GetReplicas())
	}
	if p.Replicas > placement.MaxReplicas {
		return nil, reason.Wrap(reason.Usage, "--replicas", fmt.Errorf("%d is more than %d; take 'all' for every host", p.Replicas, placement.MaxReplicas))
	}
	size := int(req.GetChunkSize())
	if size != 0 && (size < content.MinChunkSize || size > content.MaxChunkSize || size&(size-1) != 0) {
		return nil, reason.Wrap(reason.Usage, "--chunk-size", fmt.Errorf("%d is not a power of two from 64 KiB to 16 MiB", size))
	}
	return p, nil
}

// openSource opens a file for publication. It does not wait for the writer of a FIFO, nor follow one.
func openSource(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, sourceError(err, path)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, sourceError(err, path)
	}
	if !fi.Mode().IsRegular() {
		f.Close()
		return nil, reason.Wrap(reason.SourceNotRegular, path, nil)
	}
	return f, nil
}

// takeIn imports a source into the store and pins it there until it is in the catalogue.
func (h *Host) takeIn(ctx context.Context, source *os.File, chunkSize int, send func(*v1.PublishProgress) error) (*store.File, func(), error) {
	pace := newPace()
	for {
		file, err := h.store.Import(ctx, source, store.ImportOptions{ChunkSize: chunkSize, Progress: func(done, total int64) {
			pace.tick(done, func(rate float64) {
				send(&v1.PublishProgress{ // if the caller is gone, ctx ends and with it the import
					Phase: v1.PublishPhase_PUBLISH_PHASE_HASHING, Done: uint64(done), Total: uint64(total), Rate: rate,
				})
			})
		}})
		if err != nil {
			return nil, nil, err
		}
		unpin := h.keeper.Pin(file.ID())
		if _, ok := h.store.Get(file.ID()); ok {
			return file, unpin, nil
		}
		unpin() // it was there before, and somebody removed its last name just before the pin
	}
}

// awaitCopies reports how the copies of a publication come about, and returns once there are as many as the live hosts
// can give.
func (h *Host) awaitCopies(ctx context.Context, file *store.File, result *v1.PublishResult, committed bool, send func(*v1.PublishProgress) error) error {
	phase := v1.PublishPhase_PUBLISH_PHASE_COMMITTED
	sizes := shardSizes(file.Manifest())
	pace := newPace()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		changed := h.node.Changed()
		r, done, total, err := h.copies(file.ID(), sizes)
		if err != nil {
			return reason.Explain(fmt.Errorf("it was removed while its copies were made: %w", err), result.GetName())
		}
		enough := r.MinCopies >= r.Possible
		event := &v1.PublishProgress{
			Phase: phase, Done: uint64(done), Total: uint64(total), CopiesWanted: uint32(r.Wanted), CopiesMade: uint32(r.MinCopies), Result: result,
		}
		switch {
		case phase == v1.PublishPhase_PUBLISH_PHASE_COMMITTED:
			err = send(event)
			phase = v1.PublishPhase_PUBLISH_PHASE_REPLICATING
			if committed || enough {
				event.Phase = v1.PublishPhase_PUBLISH_PHASE_DONE
				return errors.Join(err, send(event))
			}
		case enough:
			event.Phase = v1.PublishPhase_PUBLISH_PHASE_DONE
			return send(event)
		default:
			pace.tick(done, func(rate float64) {
				event.Rate = rate
				err = send(event)
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
func (h *Host) copies(id content.Digest, sizes []int64) (r placement.Replication, done, total int64, err error) {
	h.node.View(func(s *placement.State) {
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

// write proposes a command on a caller's behalf.
func (h *Host) write(ctx context.Context, c placement.Command, subject string) (placement.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	r, err := h.applyOnceFounded(ctx, c)
	if errors.Is(err, placement.ErrNotInitialised) {
		return r, reason.Wrap(reason.NoLeader, subject, err).WithHint("the cluster is being made: repeat it in a moment")
	}
	if errors.Is(err, raft.ErrNoLeader) || errors.Is(err, placement.ErrOutcomeUnknown) {
		e := reason.Wrap(reason.NoLeader, subject, err)
		return r, e.WithHint("it is not known whether the change took effect; repeat it when 'virtswarm status' shows a leader: repeating is safe")
	}
	return r, reason.Explain(err, subject)
}

// applyOnceFounded applies a command; in the first second of a cluster it waits until the catalogue takes any.
func (h *Host) applyOnceFounded(ctx context.Context, c placement.Command) (placement.Result, error) {
	for {
		r, err := h.node.Apply(ctx, c)
		if !errors.Is(err, placement.ErrNotInitialised) {
			return r, err
		}
		for founded := false; !founded; {
			changed := h.node.Changed()
			if h.node.View(func(s *placement.State) { founded = s.ClusterID() != "" }); founded {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return r, err
			}
		}
	}
}
