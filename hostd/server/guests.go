package server

import (
	"context"

	"github.com/virtswarm/virtswarm/hostd/control"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/placement"
)

// Guests implements ControlHost.
func (o *Operations) Guests(ctx context.Context, req *v1.GuestsRequest) (*v1.GuestsResponse, error) {
	guests, now, err := o.GuestOps.Guests(ctx, req.GetHost())
	if err != nil {
		return nil, err
	}
	return &v1.GuestsResponse{Staleness: staleness(now), Guests: list(guests, guestMessage)}, nil
}

// WatchGuests implements ControlHost.
func (o *Operations) WatchGuests(ctx context.Context, req *v1.WatchGuestsRequest, send func(*v1.GuestEvent) error) error {
	return o.GuestOps.WatchGuests(ctx, req.GetHost(), func(e control.GuestEvent) error {
		m := &v1.GuestEvent{Index: e.Index, Gone: e.Gone, Initial: e.Initial, Reset_: e.Reset}
		if e.Guest != nil {
			m.Guest = guestMessage(*e.Guest)
		}
		return send(m)
	})
}

// SetGuest implements ControlHost.
func (o *Operations) SetGuest(ctx context.Context, req *v1.SetGuestRequest) (*v1.SetGuestResponse, error) {
	c := control.GuestChange{
		Guest: req.GetGuest(), Add: list(req.GetAdd(), needOf), Remove: req.GetRemove(), AddTags: req.GetAddTags(),
		RemoveTags: req.GetRemoveTags(), Push: pushOf(req.GetPush()), RemovePush: req.GetRemovePush(),
	}
	if req.Shm != nil {
		c.Shm = new(int64(req.GetShm()))
	}
	g, err := o.GuestOps.SetGuest(ctx, c)
	if err != nil {
		return nil, err
	}
	return &v1.SetGuestResponse{Guest: guestMessage(g)}, nil
}

// AttachShm implements ControlHost.
func (o *Operations) AttachShm(ctx context.Context, req *v1.AttachShmRequest) (*v1.AttachShmResponse, error) {
	size, err := bytesOf("size", req.GetSize())
	if err != nil {
		return nil, err
	}
	g, err := o.GuestOps.AttachShm(ctx, req.GetGuest(), size)
	if err != nil {
		return nil, err
	}
	return &v1.AttachShmResponse{Guest: guestMessage(g)}, nil
}

// DetachShm implements ControlHost.
func (o *Operations) DetachShm(ctx context.Context, req *v1.DetachShmRequest) (*v1.DetachShmResponse, error) {
	g, err := o.GuestOps.DetachShm(ctx, req.GetGuest())
	if err != nil {
		return nil, err
	}
	return &v1.DetachShmResponse{Guest: guestMessage(g)}, nil
}

// Prepare implements ControlHost.
func (o *Operations) Prepare(ctx context.Context, req *v1.PrepareRequest, send func(*v1.PrepareProgress) error) error {
	return o.GuestOps.Prepare(ctx, startOf(req), func(p control.PrepareProgress) error { return send(prepareProgressMessage(p)) })
}

// Prefetch implements ControlHost.
func (o *Operations) Prefetch(ctx context.Context, req *v1.PrefetchRequest, send func(*v1.PrepareProgress) error) error {
	return o.GuestOps.Prefetch(ctx, req.GetGuest(), req.GetHost(), func(p control.PrepareProgress) error { return send(prepareProgressMessage(p)) })
}

// CancelStart implements ControlHost.
func (o *Operations) CancelStart(ctx context.Context, req *v1.CancelStartRequest) (*v1.CancelStartResponse, error) {
	at, err := o.GuestOps.CancelStart(ctx, req.GetGuest(), req.GetHost())
	if err != nil {
		return nil, err
	}
	return &v1.CancelStartResponse{Host: at}, nil
}

func prepareProgressMessage(p control.PrepareProgress) *v1.PrepareProgress {
	return &v1.PrepareProgress{Need: uint32(p.Need), Name: p.Name, Have: uint64(p.Have), Total: uint64(p.Total), Rate: p.Rate, Done: p.Done}
}

// prepareProgressOf is the inverse of prepareProgressMessage.
func prepareProgressOf(m *v1.PrepareProgress) control.PrepareProgress {
	return control.PrepareProgress{
		Need: int(m.GetNeed()), Name: m.GetName(), Have: int64(m.GetHave()), Total: int64(m.GetTotal()), Rate: m.GetRate(), Done: m.GetDone(),
	}
}

// startOf reads a request to prepare.
func startOf(req *v1.PrepareRequest) control.Start {
	return control.Start{Domain: req.GetDomain(), Operation: req.GetOperation(), XML: req.GetXml()}
}

var guestStates = map[placement.DomainState]v1.GuestState{
	placement.DomainRunning:   v1.GuestState_GUEST_STATE_RUNNING,
	placement.DomainPaused:    v1.GuestState_GUEST_STATE_PAUSED,
	placement.DomainMigrating: v1.GuestState_GUEST_STATE_MIGRATING,
	placement.DomainOff:       v1.GuestState_GUEST_STATE_OFF,
	placement.DomainCrashed:   v1.GuestState_GUEST_STATE_CRASHED,
	placement.DomainUnknown:   v1.GuestState_GUEST_STATE_UNKNOWN,
}

func guestMessage(g control.Guest) *v1.Guest {
	m := &v1.Guest{
		Uuid: g.UUID, Name: g.Name, State: guestStates[g.State], HostId: string(g.Host), Host: g.HostName, Manager: g.Manager,
		Vcpus: uint32(g.VCPUs), Memory: uint64(g.Memory), Cid: g.CID, Migration: g.Migration, Tags: g.Tags, Others: g.OtherNames,
		Split: g.Split, Index: g.Changed, Shm: uint64(g.Shm), WantShm: uint64(g.WantShm), Awaits: g.Awaits,
		Disks: list(g.Disks, func(d placement.Disk) *v1.GuestDisk { return &v1.GuestDisk{Target: d.Target, Chain: d.Chain} }),
		Needs: list(g.Needs, needMessage),
	}
	if p := g.Push; p != nil {
		m.Push = pushMessage(p)
	}
	return m
}

// guestOf is the inverse of guestMessage, but for the ids of the other hosts that claim the domain.
func guestOf(m *v1.Guest) control.Guest {
	g := control.Guest{HostName: m.GetHost(), OtherNames: m.GetOthers(), DomainView: placement.DomainView{
		Host: placement.HostID(m.GetHostId()), Changed: m.GetIndex(), Split: m.GetSplit(),
		Domain: placement.Domain{
			UUID: m.GetUuid(), Name: m.GetName(), Manager: m.GetManager(), VCPUs: int(m.GetVcpus()), Memory: int64(m.GetMemory()),
			CID: m.GetCid(), Migration: m.GetMigration(), Tags: m.GetTags(), Shm: int64(m.GetShm()), WantShm: int64(m.GetWantShm()),
			Awaits: m.GetAwaits(),
			Disks: list(m.GetDisks(), func(d *v1.GuestDisk) placement.Disk {
				return placement.Disk{Target: d.GetTarget(), Chain: d.GetChain()}
			}),
			Needs: list(m.GetNeeds(), needOf), Push: pushOf(m.GetPush()),
		},
	}}
	for state, word := range guestStates {
		if word == m.GetState() {
			g.State = state
		}
	}
	return g
}

func needMessage(n placement.Need) *v1.GuestNeed {
	return &v1.GuestNeed{Name: n.Name, Id: n.ID, Path: n.Path}
}

func needOf(n *v1.GuestNeed) placement.Need {
	return placement.Need{Name: n.GetName(), ID: n.GetId(), Path: n.GetPath()}
}

func pushMessage(p *placement.Push) *v1.GuestPush {
	return &v1.GuestPush{Prefix: p.Prefix, Quota: uint64(p.Quota), Guests: p.Guests}
}

// pushOf is the inverse of pushMessage; nil gives nil.
func pushOf(p *v1.GuestPush) *placement.Push {
	if p == nil {
		return nil
	}
	return &placement.Push{Prefix: p.GetPrefix(), Quota: int64(p.GetQuota()), Guests: p.GetGuests()}
}
