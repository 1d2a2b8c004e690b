package placement

import (
	"cmp"
	"fmt"
	"reflect"
	"strconv"
)

// Newest is the highest cluster version that this program can: every command and field that it knows.
//
// The cluster version says what the log and the snapshots of a cluster may hold. It begins with that of the host that
// founds the cluster, and the leader raises it once all members can: see RaiseVersion. It never falls. So hosts of two
// releases live in one cluster while it is upgraded, and a host may go back to the older release as long as the version
// has not been raised.
//
// Version 1 is that of release 0.1.0, whose hosts tell no version; 2 is release 0.2.0; 3 adds who made a join token;
// 4 adds certificate authorities to the catalogue, whose keys stand at the hosts that vote.
//
// A command or a field of a later version has the tag `since:"N"`. Whoever makes a command sets such a field only if
// State.Version allows it; EncodeCommand writes down which version a command needs, the leader refuses it below that,
// and a program that is older than a command refuses it in words.
const Newest = 4

// version is that of a catalogue or host that tells none.
const untold = 1

// RaiseVersion raises the cluster version, once all members can. ErrMixedVersions names one that cannot.
//
// Idempotent: the version never falls.
type RaiseVersion struct {
	To int `json:"to"`
}

func (c *RaiseVersion) validate() error {
	if c.To <= untold {
		return fmt.Errorf("raise the cluster version to %d: %w", c.To, ErrBadCommand)
	}
	return canRead(c.To)
}

// canRead is ErrNewer unless this program can a cluster version.
func canRead(version int) error {
	if version > Newest {
		return fmt.Errorf("it needs cluster version %d, and this program can %d: %w", version, Newest, ErrNewer)
	}
	return nil
}

// Version returns the cluster version.
func (s *State) Version() int { return max(untold, s.version) }

// LeastVersion returns the highest cluster version that all members can.
func (s *State) LeastVersion() int {
	least := Newest
	for _, h := range s.hosts {
		least = min(least, h.CanVersion())
	}
	return least
}

// CanVersion returns the highest cluster version that the host can.
func (h *Host) CanVersion() int { return cmp.Or(h.Version, untold) }

func (s *State) raiseVersion(c *RaiseVersion) (bool, error) {
	if c.To <= s.Version() {
		return false, nil
	}
	for _, id := range s.hostIDs {
		if h := s.hosts[id]; h.CanVersion() < c.To {
			return false, fmt.Errorf("raise the cluster version to %d: host %s can only %d: %w", c.To, h.Name, h.CanVersion(), ErrMixedVersions)
		}
	}
	s.version = c.To
	return true, nil
}

// admits is ErrTooOld if a host that can a version at most cannot read the catalogue.
func (s *State) admits(name string, version int) error {
	if can := cmp.Or(version, untold); can < s.Version() {
		return fmt.Errorf("host %q can cluster version %d, and the cluster has %d: %w", name, can, s.Version(), ErrTooOld)
	}
	return nil
}

// Needs returns the lowest cluster version at which the command may be in the log: the highest that the command itself,
// or a field that is set in it, has in its tag since.
func (c Command) Needs() int {
	needs := tagged.since(reflect.ValueOf(c))
	if c.RaiseVersion != nil {
		needs = max(needs, c.RaiseVersion.To)
	}
	return needs
}

// tags says of types whether there is a tag since in them, or below them.
type tags map[reflect.Type]bool

// tagged are the types of commands. A report of thousands of holdings is not walked for nothing.
var tagged = tagsIn(reflect.TypeFor[Command]())

func tagsIn(t reflect.Type) tags {
	found := tags{}
	found.note(t)
	return found
}

func (found tags) note(t reflect.Type) bool {
	if known, ok := found[t]; ok {
		return known
	}
	found[t] = false // a type within itself adds nothing
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		found[t] = found.note(t.Elem())
	case reflect.Struct:
		for field := range t.Fields() {
			below := found.note(field.Type)
			found[t] = found[t] || below || field.Tag.Get("since") != ""
		}
	}
	return found[t]
}

// since returns the highest version in the tags of what is set in a value; 0 if there is none.
func (found tags) since(v reflect.Value) (version int) {
	if !v.IsValid() || !found[v.Type()] {
		return 0
	}
	switch v.Kind() {
	case reflect.Pointer:
		return found.since(v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			version = max(version, found.since(v.Index(i)))
		}
	case reflect.Struct:
		for field, value := range v.Fields() {
			if value.IsZero() {
				continue
			}
			if tag, err := strconv.Atoi(field.Tag.Get("since")); err == nil {
				version = max(version, tag)
			}
			version = max(version, found.since(value))
		}
	}
	return version
}
