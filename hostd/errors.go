package hostd

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/virtswarm/virtswarm/hostd/hook"
	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/qmp"
	"github.com/virtswarm/virtswarm/raft"
)

// reasons gives the rooms' errors the reason that the caller is told. The first that fits counts.
var reasons = []struct {
	err    error
	reason api.Reason
}{
	{ErrConfig, api.InvalidConfig},
	{errNoCatalogue, api.OldCopy},
	{ErrRunning, api.AlreadyRunning},
	{server.ErrAlreadyRunning, api.AlreadyRunning},
	{store.ErrLocked, api.AlreadyRunning},
	{store.ErrChanged, api.SourceChanged},
	{store.ErrNotRegular, api.SourceNotRegular},
	{store.ErrExists, api.DestExists},
	{store.ErrCorrupt, api.DamagedData},
	{store.ErrDamaged, api.DamagedStore},
	{raft.ErrDamaged, api.DamagedLog},
	{raft.ErrNoLeader, api.NoLeader},
	{raft.ErrRemoved, api.NotMember},
	{raft.ErrQuorum, api.QuorumAtRisk},
	{raft.ErrOldCopy, api.OldCopy},
	{raft.ErrTwin, api.OldCopy},
	{placement.ErrLaterLife, api.OldCopy},
	{placement.ErrLastHost, api.QuorumAtRisk},
	{placement.ErrOutcomeUnknown, api.NoLeader},
	{swarm.ErrNoHolder, api.NoHolder},
	{placement.ErrInvalidName, api.InvalidName},
	{placement.ErrInvalidGuests, api.Usage},
	{placement.ErrInvalidHost, api.InvalidConfig},
	{placement.ErrInvalidDomain, api.Usage},
	{virt.ErrNoLibvirt, api.NoLibvirt},
	{virt.ErrDisconnected, api.NoLibvirt},
	{virt.ErrTimeout, api.NoLibvirt},
	{virt.ErrDenied, api.NoLibvirt},
	{virt.ErrNoDomain, api.NoSuchGuest},
	{virt.ErrBadMetadata, api.Usage},
	{virt.ErrBadMemory, api.Usage},
	{virt.ErrNoSlot, api.NoGuestLink},
	{virt.ErrNotRunning, api.NoGuestLink},
	{virt.ErrNotUnplugged, api.NoGuestLink},
	{qmp.ErrNoGuest, api.NoSuchGuest},
	{qmp.ErrRefused, api.NoGuestLink},
	{qmp.ErrKept, api.NoGuestLink},
	{hook.ErrOccupied, api.DestExists},
	{hook.ErrNoSuchFile, api.NotFound},
	{placement.ErrHides, api.DestExists},
	{placement.ErrNoFile, api.NotFound},
	{placement.ErrNoContent, api.NotFound},
	{placement.ErrNoHost, api.NoSuchHost},
	{placement.ErrTooFewHosts, api.TooFewCopies},
	{placement.ErrNameTaken, api.HostNameTaken},
	{placement.ErrTokenUnknown, api.BadToken},
	{placement.ErrTokenUsed, api.BadToken},
	{placement.ErrTokenExpired, api.BadToken},
	{pki.ErrBadToken, api.BadToken},
	{pki.ErrPinMismatch, api.NotMember},
	{pki.ErrOtherCluster, api.NotMember},
	{pki.ErrNotMember, api.NotMember},
	{pki.ErrDamaged, api.NotMember},
	{pki.ErrNoIdentity, api.NoCluster},
	{link.ErrRefused, api.NotMember},
	{syscall.EADDRINUSE, api.AddressInUse},
	{context.Canceled, api.Interrupted},
}

// Explain makes an error of the rooms one that an operator can act on; the subject says what it happened to and may
// be empty. An *api.Error passes as it is.
func Explain(err error, subject string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	return api.NewError(reasonOf(err), subject, err)
}

func reasonOf(err error) api.Reason {
	if isNoSpace(err) {
		return api.NoSpace
	}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return api.Unexpected
}

// sourceError explains why a source could not be opened.
func sourceError(err error, path string) error {
	reason := api.SourceUnreadable
	if errors.Is(err, fs.ErrNotExist) {
		reason = api.SourceMissing
	}
	return api.NewError(reason, path, err)
}
