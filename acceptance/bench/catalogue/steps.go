package catalogue

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// alone is how many publications are made one after the other, to see how long one takes.
const alone = 200

// file is the publication of the i-th file, by one host after the other.
func (b *bench) file(i int) placement.Command {
	size := int64(b.o.shards) * content.ShardSize
	return placement.Command{Publish: &placement.Publish{
		Name: fmt.Sprintf("images/project-%02d/image-%05d.qcow2", i%100, i), ID: content.Sum(fmt.Appendf(nil, "file %d", i)),
		Size: size, DataBytes: size / 2, ChunkSize: content.DefaultChunkSize, Shards: b.o.shards, Replicas: b.o.replicas,
		Guests: "none", Publisher: hostID(i % b.o.hosts), At: time.Now().Unix(),
	}}
}

// publish enters the files into the catalogue: some alone, the rest many at a time.
func (b *bench) publish(ctx context.Context) error {
	var took []time.Duration
	for i := range min(alone, b.o.files) {
		begin := time.Now()
		if _, err := b.node(i%b.o.hosts).Apply(ctx, b.file(i)); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.row("publish, one at a time, at any host", "half in %s, 99 %% in %s", round(took[len(took)/2]), round(took[len(took)*99/100]))
	begin := time.Now()
	if err := b.each(len(took), b.o.files, func(i int) error {
		_, err := b.node(i%b.o.hosts).Apply(ctx, b.file(i))
		return err
	}); err != nil {
		return err
	}
	rest := b.o.files - len(took)
	b.row(fmt.Sprintf("publish, %d at a time", b.o.clients), "%.0f/s", float64(rest)/time.Since(begin).Seconds())
	p, err := placement.EncodeCommand(b.file(0))
	b.row("log entry of a publication", "%d bytes", len(p))
	return err
}

// each calls f for every number from first on, several at a time.
func (b *bench) each(first, end int, f func(i int) error) error {
	var next atomic.Int64
	next.Store(int64(first))
	var working sync.WaitGroup
	errs := make(chan error, b.o.clients)
	for range b.o.clients {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < end; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	working.Wait()
	close(errs)
	return <-errs
}

// report has every home say that it holds what it must, some files at a time, as daemons gather them.
func (b *bench) report(ctx context.Context) error {
	var reports []placement.Report
	holdings := 0
	b.node(0).View(func(s *placement.State) {
		for i := range b.o.hosts {
			var news []placement.Holding
			for _, d := range s.Must(hostID(i), 0) {
				if held := s.Held(hostID(i), d.ID); !d.Shards.Empty() && !held.All() {
					news = append(news, placement.Holding(d))
				}
			}
			holdings += len(news)
			for part := range slices.Chunk(news, b.o.gather) {
				reports = append(reports, placement.Report{Host: hostID(i), Holdings: part})
			}
		}
	})
	bytes := 0
	for _, r := range reports {
		p, err := placement.EncodeCommand(placement.Command{Report: &r})
		if err != nil {
			return err
		}
		bytes += len(p)
	}
	b.row("hosts that hold a part of a file", "%.1f", float64(holdings)/float64(b.o.files))
	b.row(fmt.Sprintf("reports of %d files", b.o.gather), "%d, %d bytes of log a file", len(reports), bytes/max(1, holdings))
	begin := time.Now()
	err := b.each(0, len(reports), func(i int) error {
		_, err := b.node(i%b.o.hosts).Apply(ctx, placement.Command{Report: &reports[i]})
		return err
	})
	b.row("such reports", "%.0f/s", float64(len(reports))/time.Since(begin).Seconds())
	return err
}

// read asks what operators and daemons ask.
func (b *bench) read(ctx context.Context) error {
	n := b.node(b.o.hosts - 1)
	if err := b.timed("linearizable read, at a host that does not vote", func() error { return n.ReadIndex(ctx) }); err != nil {
		return err
	}
	n.View(func(s *placement.State) {
		var all []placement.File
		_ = b.timed("ls: names, versions and copies of all files, the first time", func() error {
			all = s.Names("")
			for _, f := range all {
				s.Replication(f.Newest().ID)
			}
			return nil
		})
		_ = b.timed("the same again", func() error {
			for _, f := range s.Names("") {
				s.Replication(f.Newest().ID)
			}
			return nil
		})
		_ = b.timed("homes of one shard", func() error { s.Homes(all[0].Newest().ID, 0); return nil })
		_ = b.timed("what one host must hold, all files", func() error { s.Must(hostID(0), 0); return nil })
		b.summary(s, "under-replicated")
	})
	return nil
}

func (b *bench) summary(s *placement.State, what string) {
	begin := time.Now()
	sum := s.UnderReplicated()
	b.row(what+" shards of all files", "%d of %d, counted in %s", sum.UnderReplicated, sum.Shards, round(time.Since(begin)))
}

// lose takes a host down, and for good.
func (b *bench) lose(ctx context.Context) error {
	n, away := b.node(0), hostID(b.o.hosts/2)
	for _, to := range []placement.HostState{placement.Down, placement.Lost, placement.Alive} {
		_, err := n.Apply(ctx, placement.Command{SetHostState: &placement.SetHostState{ID: away, To: to, Now: time.Now().Unix()}})
		if err != nil {
			return err
		}
		n.View(func(s *placement.State) {
			b.summary(s, fmt.Sprintf("a host is %s: under-replicated", to))
			begin := time.Now()
			s.Must(hostID(0), 0)
			b.row("what one host must hold then", "%s", round(time.Since(begin)))
		})
	}
	return nil
}

// snapshot measures the catalogue at rest and in memory.
func (b *bench) snapshot(context.Context) error {
	b.row("raft directory of a host", "%s", humanize.IBytes(diskUse(b.dirOf(0))))
	var frozen *placement.Frozen
	b.node(0).View(func(s *placement.State) {
		_ = b.timed("freeze for a snapshot (writes wait)", func() error { frozen = s.Freeze(); return nil })
	})
	var file bytes.Buffer
	if err := b.timed("write a snapshot", func() error { _, err := frozen.WriteTo(&file); return err }); err != nil {
		return err
	}
	b.row("snapshot", "%s", humanize.IBytes(uint64(file.Len())))
	before := heap()
	var state *placement.State
	if err := b.timed("restore it", func() (err error) {
		state, err = placement.Restore(bytes.NewReader(file.Bytes()))
		return err
	}); err != nil {
		return err
	}
	b.row("memory of a catalogue", "%s", humanize.IBytes(heap()-before))
	state.UnderReplicated()
	b.row("memory with all homes remembered", "%s", humanize.IBytes(heap()-before))
	runtime.KeepAlive(state)
	return nil
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// restart stops a host, lets the cluster go on, and starts it again.
func (b *bench) restart(ctx context.Context) error {
	for _, missed := range []int{0, 1000} {
		i := b.o.hosts - 1
		if err := b.stop(i); err != nil {
			return err
		}
		if err := b.each(0, missed, func(k int) error {
			c := b.file(b.o.files + k)
			_, err := b.node(k%i).Apply(ctx, c)
			return err
		}); err != nil {
			return err
		}
		if err := b.timed(fmt.Sprintf("restart until current, %d entries missed", missed), func() error {
			n, err := b.start(i)
			if err != nil {
				return err
			}
			return b.follows(ctx, n)
		}); err != nil {
			return err
		}
	}
	return nil
}

// follows waits until a linearizable read works.
func (b *bench) follows(ctx context.Context, n *raft.Node) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return n.ReadIndex(ctx)
}

// join adds a host with an empty directory.
func (b *bench) join(ctx context.Context) error {
	if err := b.timed("a new host joins, until current", func() error { return b.admit(ctx, b.o.hosts) }); err != nil {
		return err
	}
	snapshots, err := filepath.Glob(filepath.Join(b.dirOf(b.o.hosts), "snapshots", "*.snap"))
	b.row("it got", "%d snapshot, %s in its directory", len(snapshots), humanize.IBytes(diskUse(b.dirOf(b.o.hosts))))
	return err
}
