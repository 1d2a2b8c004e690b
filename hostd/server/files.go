package server

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/hostd/store"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Publish implements ControlHost.
func (o *Operations) Publish(ctx context.Context, req *v1.PublishRequest, send func(*v1.PublishProgress) error) error {
	p, err := publication(req)
	if err != nil {
		return err
	}
	return o.Files.Publish(ctx, p, sendPublishing(send))
}

// PublishStream implements ControlHost.
func (o *Operations) PublishStream(ctx context.Context, receive func() (*v1.PublishChunk, error), send func(*v1.PublishProgress) error) error {
	first, err := receive()
	if err != nil {
		return err
	}
	p, err := publication(first.GetRequest())
	if err != nil {
		return err
	}
	return o.Files.PublishFrom(ctx, p, &chunks{receive: receive, now: first}, sendPublishing(send))
}

// errCutOff is a stream of bytes that ended before its last message.
var errCutOff = errors.New("the caller stopped sending before the end")

// chunks reads the bytes of a stream of messages.
type chunks struct {
	receive func() (*v1.PublishChunk, error)
	now     *v1.PublishChunk
}

// Read implements io.Reader.
func (c *chunks) Read(p []byte) (int, error) {
	for len(c.now.GetData()) == 0 {
		if c.now.GetEnd() {
			return 0, io.EOF
		}
		next, err := c.receive()
		if errors.Is(err, io.EOF) {
			err = errCutOff
		}
		if err != nil {
			return 0, reason.Wrap(reason.Interrupted, "", err)
		}
		c.now = next
	}
	n := copy(p, c.now.Data)
	c.now.Data = c.now.Data[n:]
	return n, nil
}

func publication(req *v1.PublishRequest) (control.Publication, error) {
	p := control.Publication{
		Path: req.GetPath(), Name: req.GetName(), Guests: req.GetGuests(), Committed: req.GetWait() == v1.Wait_WAIT_COMMITTED,
		ChunkSize: int(req.GetChunkSize()), Force: req.GetForce(),
	}
	if req != nil && req.Replicas != nil {
		p.Replicas = new(int(req.GetReplicas()))
	}
	var err error
	p.Expect, err = parseID(req.GetExpect())
	return p, err
}

func sendPublishing(send func(*v1.PublishProgress) error) func(control.PublishProgress) error {
	return func(p control.PublishProgress) error {
		m := &v1.PublishProgress{
			Phase: v1.PublishPhase(p.Phase), Done: uint64(p.Done), Total: uint64(p.Total), Rate: p.Rate,
			CopiesWanted: uint32(p.CopiesWanted), CopiesMade: uint32(p.CopiesMade),
		}
		if r := p.Result; r != nil {
			m.Result = &v1.PublishResult{
				Name: r.Name, Id: idText(r.ID), Size: uint64(r.Size), DataBytes: uint64(r.DataBytes), Index: r.Index,
				CatalogueCopies: uint32(r.CatalogueCopies),
			}
		}
		return send(m)
	}
}

// exportModes are the API's modes in the store's words.
var exportModes = map[v1.ExportMode]store.ExportMode{
	v1.ExportMode_EXPORT_MODE_HARDLINK: store.HardLink,
	v1.ExportMode_EXPORT_MODE_COPY:     store.Copy,
}

func exportOptions(req *v1.PullRequest) store.ExportOptions {
	o := store.ExportOptions{Mode: exportModes[req.GetMode()], Overwrite: req.GetOverwrite()}
	if req.Perm != nil {
		o.Perm = new(fs.FileMode(req.GetPerm()))
	}
	if req.Owner != nil {
		o.Owner = new(int(req.GetOwner()))
	}
	if req.Group != nil {
		o.Group = new(int(req.GetGroup()))
	}
	return o
}

// Pull implements ControlHost.
func (o *Operations) Pull(ctx context.Context, req *v1.PullRequest, send func(*v1.PullProgress) error) error {
	ref, err := parseRef(req.GetName(), req.GetId())
	if err != nil {
		return err
	}
	return o.Files.Pull(ctx, ref, req.GetDest(), exportOptions(req), func(p control.PullProgress) error {
		m := &v1.PullProgress{
			Phase: v1.PullPhase(p.Phase), Done: uint64(p.Done), Total: uint64(p.Total), Rate: p.Rate, Sources: uint32(p.Sources),
			RemoteBytes: uint64(p.RemoteBytes), LocalBytes: uint64(p.LocalBytes),
		}
		if r := p.Result; r != nil {
			m.Result = &v1.PullResult{
				Name: r.Name, Id: idText(r.ID), Size: uint64(r.Size), DataBytes: uint64(r.DataBytes), Dest: r.Dest,
			}
		}
		return send(m)
	})
}

// maxPiece bounds the bytes of a message, which the other side holds at once.
const maxPiece = 1 << 20

// Read implements ControlHost.
func (o *Operations) Read(ctx context.Context, req *v1.ReadRequest, send func(*v1.ReadChunk) error) error {
	ref, err := parseRef(req.GetName(), req.GetId())
	if err != nil {
		return err
	}
	err = o.Files.Read(ctx, ref, func(id content.Digest, size int64) error {
		return send(&v1.ReadChunk{Id: idText(id), Size: uint64(size)})
	}, func(p []byte, zeros int64) error {
		for len(p) > maxPiece {
			if err := send(&v1.ReadChunk{Data: p[:maxPiece]}); err != nil {
				return err
			}
			p = p[maxPiece:]
		}
		return send(&v1.ReadChunk{Data: p, Zeros: uint64(zeros)})
	})
	if err != nil {
		return err
	}
	return send(&v1.ReadChunk{End: true})
}

// Distribute implements ControlHost.
func (o *Operations) Distribute(ctx context.Context, req *v1.DistributeRequest, send func(*v1.DistributeProgress) error) error {
	ref, err := parseRef(req.GetName(), req.GetId())
	if err != nil {
		return err
	}
	d := control.Distribution{Ref: ref, All: req.GetAll(), Hosts: req.GetHosts(), Watch: req.GetWatch()}
	return o.Files.Distribute(ctx, d, func(p control.DistributeProgress) error {
		return send(&v1.DistributeProgress{
			Name: p.Name, Id: idText(p.ID), Size: uint64(p.Size), Done: p.Done, SentBytes: uint64(p.SentBytes),
			Hosts: list(p.Hosts, hostProgress),
		})
	})
}

func hostProgress(p control.HostProgress) *v1.HostProgress {
	return &v1.HostProgress{
		HostId: string(p.ID), Host: p.Host, State: v1.HoldState(p.State), HeldBytes: uint64(p.HeldBytes),
		TotalBytes: uint64(p.TotalBytes), Rate: p.Rate, Seconds: p.Seconds,
	}
}

// Progress implements ClusterHost.
func (o *Operations) Progress(_ context.Context, req *v1.ProgressRequest) (*v1.ProgressResponse, error) {
	id, err := parseID(req.GetId())
	if err != nil {
		return nil, err
	}
	p := o.Files.Progress(id)
	return &v1.ProgressResponse{
		Known: p.Known, HeldBytes: uint64(p.HeldBytes), TotalBytes: uint64(p.TotalBytes), Fetching: p.Fetching, Rate: p.Rate,
		Sources: uint32(p.Sources),
	}, nil
}

// Unpin implements ControlHost.
func (o *Operations) Unpin(ctx context.Context, req *v1.UnpinRequest) (*v1.UnpinResponse, error) {
	ref, err := parseRef(req.GetName(), req.GetId())
	if err != nil {
		return nil, err
	}
	u, err := o.Files.Unpin(ctx, ref, req.GetAll(), req.GetHosts())
	if err != nil {
		return nil, err
	}
	return &v1.UnpinResponse{Name: u.Name, Id: idText(u.ID), Hosts: u.Hosts, Index: u.Index}, nil
}

// List implements ControlHost.
func (o *Operations) List(ctx context.Context, req *v1.ListRequest) (*v1.ListResponse, error) {
	files, more, now := o.Files.List(ctx, req.GetPrefix(), req.GetAfter(), int(req.GetLimit()))
	return &v1.ListResponse{Staleness: staleness(now), Files: list(files, fileMessage), More: more}, nil
}

// Show implements ControlHost.
func (o *Operations) Show(ctx context.Context, req *v1.ShowRequest) (*v1.ShowResponse, error) {
	ref, err := parseRef(req.GetName(), req.GetId())
	if err != nil {
		return nil, err
	}
	d, now, err := o.Files.Show(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &v1.ShowResponse{
		Staleness: staleness(now), Versions: list(d.Versions, fileMessage), File: fileMessage(d.File),
		Holdings: list(d.Holdings, holding),
	}, nil
}

// Remove implements ControlHost.
func (o *Operations) Remove(ctx context.Context, req *v1.RemoveRequest) (*v1.RemoveResponse, error) {
	ref, err := parseRef(req.GetName(), req.GetId())
	if err != nil {
		return nil, err
	}
	removed, index, err := o.Files.Remove(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &v1.RemoveResponse{Removed: list(removed, fileMessage), Index: index}, nil
}

func fileMessage(f control.File) *v1.File {
	return &v1.File{
		Name: f.Name, Id: idText(f.ID), Size: uint64(f.Size), DataBytes: uint64(f.Content.DataBytes),
		ChunkSize: uint32(f.Content.ChunkSize), Shards: uint32(f.Content.Shards), Replicas: uint32(f.Replicas),
		CopiesWanted: uint32(f.Replication.Wanted), CopiesMade: uint32(f.Replication.MinCopies),
		ShardsMissingCopies: uint32(f.Replication.UnderReplicated), Guests: f.Guests, Publisher: f.Publisher, PublishedAt: f.At,
		Index: f.Index, Versions: uint32(f.Versions),
	}
}

var hostStates = map[placement.HostState]v1.HostState{
	placement.Alive:   v1.HostState_HOST_STATE_ALIVE,
	placement.Down:    v1.HostState_HOST_STATE_DOWN,
	placement.Leaving: v1.HostState_HOST_STATE_LEAVING,
	placement.Lost:    v1.HostState_HOST_STATE_LOST,
}

func holding(h control.Holding) *v1.Holding {
	return &v1.Holding{
		HostId: string(h.Host.ID), Host: h.Host.Name, State: hostStates[h.Host.State], Shards: uint32(h.Shards), Bytes: uint64(h.Bytes),
		HomeShards: uint32(h.HomeShards), Target: h.Target,
	}
}

// Verify implements ControlHost.
func (o *Operations) Verify(ctx context.Context, req *v1.VerifyRequest, send func(*v1.CheckProgress) error) error {
	ref, err := parseRef(req.GetName(), req.GetId())
	if err != nil {
		return err
	}
	return o.Files.Verify(ctx, ref, func(p control.CheckProgress) error { return send(checkProgress(p)) })
}

// Scrub implements ControlHost.
func (o *Operations) Scrub(ctx context.Context, req *v1.ScrubRequest, send func(*v1.CheckProgress) error) error {
	rate, err := bytesOf("rate", req.GetRate())
	if err != nil {
		return err
	}
	if rate == 0 {
		rate = o.ScrubRate
	}
	return o.Files.Scrub(ctx, rate, func(p control.CheckProgress) error { return send(checkProgress(p)) })
}

func checkProgress(p control.CheckProgress) *v1.CheckProgress {
	return &v1.CheckProgress{
		Phase: v1.CheckPhase(p.Phase), Done: uint64(p.Done), Total: uint64(p.Total), Rate: p.Rate, Files: uint64(p.Files),
		Name: p.Name, Id: idText(p.ID), BadChunks: uint64(p.BadChunks), HealedChunks: uint64(p.Healed),
		Damage: list(p.Damage, func(d control.Damage) *v1.Damage {
			return &v1.Damage{Name: d.Name, Id: idText(d.ID), BadChunks: uint64(d.BadChunks), HealedChunks: uint64(d.Healed)}
		}),
	}
}
