package placement

import (
	"fmt"
	"slices"
)

// MaxRecoveries bounds the recoveries that a catalogue remembers, all of which it needs.
const MaxRecoveries = 256

// Recovery is one time that the cluster was given up by a majority of its voters and went on from what a survivor had.
// What the lost ones had acknowledged beyond that is gone. All recoveries of a catalogue, in order, are its lineage:
// two hosts whose lineages differ may hold different catalogues at the same index.
type Recovery struct {
	ID    string `json:"id"`    // 32 hex digits, random
	Term  uint64 `json:"term"`  // of the last entry of the survivor's log
	Index uint64 `json:"index"` // and its index
	By    HostID `json:"by"`    // the survivor
	At    int64  `json:"at"`    // unix seconds
}

// Ahead reports whether a log that ends with an entry of that term and index holds what the recovery did not have.
func (r Recovery) Ahead(term, index uint64) bool {
	return term > r.Term || term == r.Term && index > r.Index
}

func (r Recovery) validate() error {
	if len(r.ID) != 32 || !isHex(r.ID) || r.Index == 0 {
		return fmt.Errorf("recovery %.80q at entry %d: %w", r.ID, r.Index, ErrBadCommand)
	}
	return nil
}

// Recover removes hosts and adds to the lineage, at an index beyond that of the survivor's log. It is no command: it
// never stands in a log, as there is no majority to agree on it. ErrLastHost if nobody would be left.
func (s *State) Recover(index uint64, r Recovery, remove []HostID) error {
	if err := r.validate(); err != nil {
		return err
	}
	if index <= s.applied || r.Index < s.applied {
		return fmt.Errorf("recover at index %d, from entry %d, a catalogue of index %d: %w", index, r.Index, s.applied, ErrBadCommand)
	}
	if len(s.recoveries) >= MaxRecoveries {
		return fmt.Errorf("recover for the %dth time: %w", len(s.recoveries)+1, ErrTooMany)
	}
	for _, id := range remove {
		if s.hosts[id] == nil {
			return fmt.Errorf("recover without host %s: %w", id, ErrNoHost)
		}
	}
	if s.hosts[r.By] == nil || slices.Contains(remove, r.By) {
		return fmt.Errorf("recover by host %s: %w", r.By, ErrNoHost)
	}
	s.applied = index
	for _, id := range remove {
		if _, err := s.removeHost(index, &RemoveHost{ID: id}); err != nil {
			return err
		}
	}
	s.recoveries = append(slices.Clone(s.recoveries), r)
	return nil
}

// Recoveries returns the lineage, the oldest first.
func (s *State) Recoveries() []Recovery { return slices.Clone(s.recoveries) }

// Lineage names the lineage: the id of the last recovery, "" if there was none.
func (s *State) Lineage() string {
	if n := len(s.recoveries); n > 0 {
		return s.recoveries[n-1].ID
	}
	return ""
}

// LeftOut reports whether a recovery removed a host.
func (s *State) LeftOut(id HostID) bool {
	removed, ok := s.gone[id]
	return ok && slices.ContainsFunc(s.recoveries, func(r Recovery) bool { return r.Index+1 == removed })
}
