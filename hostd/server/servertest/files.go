package servertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// defaultReplicas is what a publication without a number of copies gets.
const defaultReplicas = 2

// pageSize is the length of a page of names: small, so that tests see more than one.
const pageSize = 3

// fakeRate is the rate of everything that moves here.
const fakeRate = 100 << 20

// Publish implements server.ControlHost.
func (h *Host) Publish(ctx context.Context, req *v1.PublishRequest, send func(*v1.PublishProgress) error) error {
	if err := placement.ValidateName(req.GetName()); err != nil {
		return reason.Wrap(reason.InvalidName, req.GetName(), err)
	}
	b, err := readBlob(ctx, req.GetPath(), int(req.GetChunkSize()))
	if err != nil {
		return err
	}
	size := uint64(len(b.data))
	hashing := &v1.PublishProgress{Phase: v1.PublishPhase_PUBLISH_PHASE_HASHING, Done: size / 2, Total: size, Rate: fakeRate}
	if err := send(hashing); err != nil {
		return err
	}
	if err := h.wait(ctx, "publish"); err != nil {
		return err
	}
	committed, err := h.commit(req, b)
	if err != nil {
		return err
	}
	if err := send(committed); err != nil {
		return err
	}
	if req.GetWait() != v1.Wait_WAIT_COMMITTED {
		if err := send(h.replicated(committed)); err != nil {
			return err
		}
	}
	committed.Phase = v1.PublishPhase_PUBLISH_PHASE_DONE
	return send(committed)
}

func readBlob(ctx context.Context, path string, chunkSize int) (*blob, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, reason.Wrap(reason.SourceMissing, path, err)
	case err != nil:
		return nil, reason.Wrap(reason.SourceUnreadable, path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, reason.Wrap(reason.SourceNotRegular, path, nil)
	}
	opts := content.ChunkOptions{ChunkSize: cmp.Or(chunkSize, content.DefaultChunkSize)}
	m, err := content.ChunkFile(ctx, f, info.Size(), opts)
	if err != nil {
		return nil, fmt.Errorf("hash %s: %w", path, err)
	}
	data, err := os.ReadFile(path)
	return &blob{manifest: m, data: data, holders: make(map[string]int)}, err
}

// commit enters a content into the catalogue and says so.
func (h *Host) commit(req *v1.PublishRequest, b *blob) (*v1.PublishProgress, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	quota, used := h.self().limits.GetQuota(), h.usage(h.self())
	if quota > 0 && used+uint64(b.manifest.DataBytes()) > quota {
		return nil, reason.Wrap(reason.NoSpace, req.GetPath(),
			fmt.Errorf("%d bytes needed, %d of a quota of %d used", b.manifest.DataBytes(), used, quota))
	}
	if err := h.write(); err != nil {
		return nil, err
	}
	id := b.manifest.ID().String()
	if known := h.contents[id]; known != nil {
		b = known
	}
	h.contents[id] = b
	b.holders[h.self().id] = 0
	replicas := uint32(defaultReplicas)
	if req.Replicas != nil {
		replicas = req.GetReplicas()
	}
	v := &version{
		name: req.GetName(), id: id, replicas: replicas, guests: cmp.Or(req.GetGuests(), "none"),
		publisher: h.self().id, at: h.now.Unix(), index: h.index, targets: make(map[string]bool),
	}
	versions := slices.DeleteFunc(h.names[v.name], func(o *version) bool { return o.id == id })
	h.names[v.name] = append(versions, v)
	f := h.file(v)
	return &v1.PublishProgress{
		Phase: v1.PublishPhase_PUBLISH_PHASE_COMMITTED, CopiesWanted: f.GetCopiesWanted(), CopiesMade: f.GetCopiesMade(),
		Result: &v1.PublishResult{Name: v.name, Id: id, Size: f.GetSize(), DataBytes: f.GetDataBytes(), Index: v.index},
	}, nil
}

// replicated spreads the copies of what was just committed and says how many there are.
func (h *Host) replicated(committed *v1.PublishProgress) *v1.PublishProgress {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.replicate()
	committed.CopiesMade = h.copies(h.contents[committed.GetResult().GetId()])
	moved := committed.GetResult().GetDataBytes() * uint64(committed.GetCopiesMade()-1)
	return &v1.PublishProgress{
		Phase: v1.PublishPhase_PUBLISH_PHASE_REPLICATING, Done: moved, Total: moved, Rate: fakeRate,
		CopiesWanted: committed.GetCopiesWanted(), CopiesMade: committed.GetCopiesMade(),
	}
}

// Pull implements server.ControlHost.
func (h *Host) Pull(ctx context.Context, req *v1.PullRequest, send func(*v1.PullProgress) error) error {
	if _, err := os.Lstat(req.GetDest()); err == nil {
		return reason.Wrap(reason.DestExists, req.GetDest(), nil)
	}
	fetched, b, err := h.fetch(req)
	if err != nil {
		return err
	}
	if err := send(fetched); err != nil {
		return err
	}
	if err := h.wait(ctx, "pull"); err != nil {
		return err
	}
	if err := export(req.GetDest(), b.data); err != nil {
		return err
	}
	fetched.Phase = v1.PullPhase_PULL_PHASE_EXPORTING
	if err := send(fetched); err != nil {
		return err
	}
	fetched.Phase, fetched.Sources = v1.PullPhase_PULL_PHASE_DONE, 0
	return send(fetched)
}

// fetch makes this host hold the file and says where the bytes came from.
func (h *Host) fetch(req *v1.PullRequest) (*v1.PullProgress, *blob, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.version(req.GetName(), req.GetId())
	if err != nil {
		return nil, nil, err
	}
	b := h.contents[v.id]
	if h.copies(b) == 0 {
		return nil, nil, reason.Wrap(reason.NoHolder, v.name, fmt.Errorf("%d chunks are missing", b.manifest.DataChunks()))
	}
	data := uint64(b.manifest.DataBytes())
	p := &v1.PullProgress{
		Phase: v1.PullPhase_PULL_PHASE_FETCHING, Done: data, Total: data, Rate: fakeRate,
		Result: &v1.PullResult{
			Name: v.name, Id: v.id, Size: uint64(len(b.data)), DataBytes: data, Dest: req.GetDest(),
		},
	}
	if bad, ok := b.holders[h.self().id]; ok && bad == 0 {
		p.LocalBytes = data
	} else {
		p.RemoteBytes, p.Sources = data, h.copies(b)
	}
	b.holders[h.self().id] = 0
	return p, b, nil
}

func export(dest string, data []byte) error {
	f, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return reason.Wrap(reason.DestExists, dest, err)
	}
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Distribute implements server.ControlHost.
func (h *Host) Distribute(ctx context.Context, req *v1.DistributeRequest, send func(*v1.DistributeProgress) error) error {
	before, err := h.order(req)
	if err != nil {
		return err
	}
	if !req.GetWatch() {
		before.Done = true
		return send(before)
	}
	if err := send(before); err != nil {
		return err
	}
	if err := h.wait(ctx, "distribute"); err != nil {
		return err
	}
	h.mu.Lock()
	after, err := h.targets(req)
	h.mu.Unlock()
	if err != nil {
		return err
	}
	after.Done = true
	return send(after)
}

// order commits a distribution, says who holds what at that moment, and carries it out.
func (h *Host) order(req *v1.DistributeRequest) (*v1.DistributeProgress, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.version(req.GetName(), req.GetId())
	if err != nil {
		return nil, err
	}
	before, err := h.targets(req)
	if err != nil {
		return nil, err
	}
	if err := h.write(); err != nil {
		return nil, err
	}
	v.all = v.all || req.GetAll()
	for _, p := range before.GetHosts() {
		v.targets[p.GetHostId()] = true
	}
	h.replicate()
	return before, nil
}

func (h *Host) targets(req *v1.DistributeRequest) (*v1.DistributeProgress, error) {
	v, err := h.version(req.GetName(), req.GetId())
	if err != nil {
		return nil, err
	}
	b := h.contents[v.id]
	members := slices.Clone(h.hosts)
	if !req.GetAll() {
		members = nil
		for _, name := range req.GetHosts() {
			m, err := h.host(name)
			if err != nil {
				return nil, err
			}
			members = append(members, m)
		}
	}
	slices.SortFunc(members, func(a, b *member) int { return cmp.Compare(a.name, b.name) })
	p := &v1.DistributeProgress{Name: v.name, Id: v.id, Size: uint64(len(b.data))}
	for _, m := range members {
		p.Hosts = append(p.Hosts, progressOf(m, b))
	}
	return p, nil
}

func progressOf(m *member, b *blob) *v1.HostProgress {
	hp := &v1.HostProgress{
		HostId: m.id, Host: m.name, State: v1.HoldState_HOLD_STATE_WAITING, TotalBytes: uint64(b.manifest.DataBytes()),
	}
	_, has := b.holders[m.id]
	switch {
	case has:
		hp.State, hp.HeldBytes = v1.HoldState_HOLD_STATE_COMPLETE, hp.TotalBytes
	case m.state == v1.HostState_HOST_STATE_DOWN:
		hp.State = v1.HoldState_HOLD_STATE_DOWN
	}
	return hp
}
