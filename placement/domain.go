package placement

import (
	"cmp"
	"slices"
)

// DomainState says what a domain does.
type DomainState string

const (
	// DomainRunning: its vCPUs run, or would if it did not sleep.
	DomainRunning DomainState = "running"
	// DomainPaused: a process holds its memory, and somebody or something stopped its vCPUs.
	DomainPaused DomainState = "paused"
	// DomainMigrating: its vCPUs stand still here while it goes to another host, or until it has come from there.
	DomainMigrating DomainState = "migrating"
	// DomainOff: defined and not running.
	DomainOff DomainState = "off"
	// DomainCrashed: defined, and its process died.
	DomainCrashed DomainState = "crashed"
	// DomainUnknown is said by nobody: the host that had it is down or lost, or finds it Silent.
	DomainUnknown DomainState = "unknown"
)

// DomainStates lists all states.
var DomainStates = []DomainState{DomainRunning, DomainPaused, DomainMigrating, DomainOff, DomainCrashed, DomainUnknown}

// Active reports whether a process holds the domain's memory, whichever way it goes from here.
func (s DomainState) Active() bool {
	return s == DomainRunning || s == DomainPaused || s == DomainMigrating
}

// reportable reports whether a host may say so.
func (s DomainState) reportable() bool { return s.Active() || s == DomainOff || s == DomainCrashed }

// Which way a domain that migrates goes, as its host sees it.
const (
	MigratingIn  = "in"
	MigratingOut = "out"
)

// Who manages a domain.
const (
	ManagedByLibvirt = "libvirt"
	ManagedByQMP     = "qmp" // a QEMU that libvirt does not know
)

// Domain is what a host says of a domain that runs or is defined there.
type Domain struct {
	UUID      string      `json:"uuid"` // RFC 9562, lower case
	Name      string      `json:"name"`
	State     DomainState `json:"state"`
	Manager   string      `json:"manager"` // ManagedBy…
	VCPUs     int         `json:"vcpus,omitempty"`
	Memory    int64       `json:"memory,omitempty"`    // bytes
	CID       uint32      `json:"cid,omitempty"`       // of its vsock now; 0 = none
	Migration string      `json:"migration,omitempty"` // Migrating…, or "" if it stays
	Disks     []Disk      `json:"disks,omitempty"`     // in the order of the domain's definition
	Needs     []Need      `json:"needs,omitempty"`     // files that its metadata names
	Tags      []string    `json:"tags,omitempty"`      // of its metadata, sorted
	Shm       int64       `json:"shm,omitempty"`       // bytes of the shared memory of its guest link now; 0 = none
	WantShm   int64       `json:"want_shm,omitempty"`  // bytes that its metadata asks for; 0 = none
	Push      *Push       `json:"push,omitempty"`      // what its guest may publish; nil = nothing

	// Silent: its process lives and says nothing; the rest is what it said last.
	Silent bool `json:"silent,omitempty" since:"4"`
	// Awaits is the name of the file that its start waits for; "" = it does not wait.
	Awaits string `json:"awaits,omitempty" since:"4"`
}

// Push is what a domain's metadata lets its guest publish.
type Push struct {
	Prefix string `json:"prefix,omitempty"` // what its files' names begin with, without the slash at the end; "" = guests/UUID
	Quota  int64  `json:"quota"`            // bytes that the newest versions under the prefix may have together
	Guests string `json:"guests,omitempty"` // who may read them; "" = none
}

// Disk is a disk of a domain with what its image is made of.
type Disk struct {
	Target string   `json:"target"` // vda, …
	Chain  []string `json:"chain"`  // paths on the host: the image, its backing file, that one's, …
}

// Need is a file that a domain needs on its host.
type Need struct {
	Name string `json:"name"`
	ID   string `json:"id,omitempty"`   // digest of the version; "" = the newest
	Path string `json:"path,omitempty"` // where the host exposes it; "" = only in the store
}

// DomainView is a domain as the catalogue shows it: on exactly one host, of all that claim it.
type DomainView struct {
	Domain
	Host    HostID
	Since   uint64   // index at which it became active there, or ceased to be
	Changed uint64   // index of the last command that changed this view
	Others  []HostID // the other hosts that claim it, sorted
	// Split says that another host that is up claims that it runs there, too.
	Split bool
}

// domainRecord is who claims a domain. It is immutable; the view is derived when a claim or its host's state changes.
type domainRecord struct {
	uuid   string
	claims []claim // sorted by host, never empty
	view   DomainView
}

// claim is what one host says of a domain.
type claim struct {
	Host   HostID `json:"host"`
	Since  uint64 `json:"since"` // index at which it became active there, or ceased to be
	Domain Domain `json:"domain"`
}

// The ranks of a claim, the highest has the domain. A domain is where it runs. While it goes from one host to another
// it is still where it came from, until it runs on the other. What a host said that has gone silent counts less than
// that a domain runs elsewhere, and more than that it is merely defined elsewhere.
const (
	rankOffSilent = iota
	rankOff
	rankSilent
	rankMigrating
	rankActive
)

func (c *claim) rank(host *Host) int {
	up := host != nil && host.State.Serves()
	switch {
	case !c.Domain.State.Active() && !up:
		return rankOffSilent
	case !c.Domain.State.Active():
		return rankOff
	case !up:
		return rankSilent
	case c.Domain.State == DomainMigrating:
		return rankMigrating
	}
	return rankActive
}

// view derives the one picture of a domain. Of equal claims the newest proof wins, but a domain that migrates stays
// with the claim that was there first.
func (s *State) view(claims []claim) DomainView {
	best := 0
	for i := 1; i < len(claims); i++ {
		a, b := &claims[i], &claims[best]
		rank := a.rank(s.hosts[a.Host])
		newer := cmp.Compare(a.Since, b.Since)
		if rank == rankMigrating {
			newer = -newer
		}
		if cmp.Or(cmp.Compare(rank, b.rank(s.hosts[b.Host])), newer) > 0 {
			best = i
		}
	}
	c := &claims[best]
	v := DomainView{Domain: c.Domain, Host: c.Host, Since: c.Since}
	if h := s.hosts[c.Host]; c.Domain.State.Active() && (h == nil || !h.State.Serves() || c.Domain.Silent) {
		v.State = DomainUnknown
	}
	for i := range claims {
		if i == best {
			continue
		}
		v.Others = append(v.Others, claims[i].Host)
		// One that migrates out may be where it came from a moment longer: a paused one looks the same on both sides.
		v.Split = v.Split || claims[i].rank(s.hosts[claims[i].Host]) == rankActive && claims[i].Domain.Migration != MigratingOut
	}
	return v
}

// same reports whether two views say the same, whenever they came to.
func (v DomainView) same(o DomainView) bool {
	return v.Host == o.Host && v.Since == o.Since && v.Split == o.Split && slices.Equal(v.Others, o.Others) && v.Domain.Equal(o.Domain)
}

// Equal reports whether two hosts, or one at two times, say the same.
func (d Domain) Equal(o Domain) bool {
	return d.UUID == o.UUID && d.Name == o.Name && d.State == o.State && d.Manager == o.Manager && d.VCPUs == o.VCPUs &&
		d.Memory == o.Memory && d.CID == o.CID && d.Migration == o.Migration && slices.EqualFunc(d.Disks, o.Disks, Disk.equal) &&
		slices.Equal(d.Needs, o.Needs) && slices.Equal(d.Tags, o.Tags) && d.Shm == o.Shm && d.WantShm == o.WantShm && d.Push.equal(o.Push) &&
		d.Silent == o.Silent && d.Awaits == o.Awaits
}

func (p *Push) equal(o *Push) bool { return p == o || p != nil && o != nil && *p == *o }

func (d Disk) equal(o Disk) bool { return d.Target == o.Target && slices.Equal(d.Chain, o.Chain) }
