package main

import (
	"strings"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// The shapes of --json. They are a promise of their own and do not follow the messages of the API by
// themselves: a key is never renamed or removed, and is always there unless marked omitempty. Sizes are
// bytes, rates bytes per second, times RFC 3339 in UTC.

type errorShape struct {
	Error struct {
		Reason   string `json:"reason"`
		ExitCode int    `json:"exit_code"`
		Message  string `json:"message"`
		Subject  string `json:"subject"`
		Cause    string `json:"cause"`
		Hint     string `json:"hint"`
	} `json:"error"`
}

type stalenessShape struct {
	Stale                bool    `json:"stale"`
	SecondsWithoutLeader float64 `json:"seconds_without_leader"`
	Index                uint64  `json:"index"`
}

type fileShape struct {
	Name                string    `json:"name"`
	ID                  string    `json:"id"`
	Size                uint64    `json:"size"`
	DataBytes           uint64    `json:"data_bytes"`
	ChunkSize           uint32    `json:"chunk_size"`
	Shards              uint32    `json:"shards"`
	Replicas            uint32    `json:"replicas"` // 0 means one on every host
	CopiesWanted        uint32    `json:"copies_wanted"`
	CopiesMade          uint32    `json:"copies_made"`
	ShardsMissingCopies uint32    `json:"shards_missing_copies"`
	Guests              string    `json:"guests"`
	Publisher           string    `json:"publisher"`
	PublishedAt         time.Time `json:"published_at"`
	Index               uint64    `json:"index"`
	Versions            uint32    `json:"versions"`
}

type hostShape struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Address   string            `json:"address"`
	State     string            `json:"state"`
	Voter     bool              `json:"voter"`
	Leader    bool              `json:"leader"`
	Self      bool              `json:"self"`
	Weight    uint32            `json:"weight"`
	Labels    map[string]string `json:"labels"`
	Files     uint64            `json:"files"`
	HeldBytes uint64            `json:"held_bytes"`
	Limits    limitsShape       `json:"limits"`
	Since     time.Time         `json:"state_since"`
}

type limitsShape struct {
	Up    uint64 `json:"up"` // 0 means none, as below
	Down  uint64 `json:"down"`
	Quota uint64 `json:"quota"`
	High  uint32 `json:"high"` // percent of the quota
	Low   uint32 `json:"low"`
}

func errorJSON(e *reason.Error) errorShape {
	var s errorShape
	s.Error.Reason, s.Error.ExitCode, s.Error.Message = e.Reason.String(), e.Reason.ExitCode(), e.Reason.Explain().Sentence
	s.Error.Subject, s.Error.Hint = reason.Flags(e.Subject), reason.Flags(e.Next())
	if e.Err != nil {
		s.Error.Cause = reason.Flags(e.Err.Error())
	}
	return s
}

func stalenessJSON(s *v1.Staleness) stalenessShape {
	return stalenessShape{Stale: s.GetStale(), SecondsWithoutLeader: s.GetSecondsWithoutLeader(), Index: s.GetIndex()}
}

func fileJSON(f *v1.File) fileShape {
	return fileShape{
		Name: f.GetName(), ID: f.GetId(), Size: f.GetSize(), DataBytes: f.GetDataBytes(), ChunkSize: f.GetChunkSize(),
		Shards: f.GetShards(), Replicas: f.GetReplicas(), CopiesWanted: f.GetCopiesWanted(), CopiesMade: f.GetCopiesMade(),
		ShardsMissingCopies: f.GetShardsMissingCopies(), Guests: f.GetGuests(), Publisher: f.GetPublisher(),
		PublishedAt: time.Unix(f.GetPublishedAt(), 0).UTC(), Index: f.GetIndex(), Versions: f.GetVersions(),
	}
}

func hostJSON(h *v1.Host) hostShape {
	labels := h.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	return hostShape{
		ID: h.GetId(), Name: h.GetName(), Address: h.GetAddress(), State: enumText(h.GetState(), "HOST_STATE_"),
		Voter: h.GetVoter(), Leader: h.GetLeader(), Self: h.GetSelf(), Weight: h.GetWeight(), Labels: labels,
		Files: h.GetFiles(), HeldBytes: h.GetHeldBytes(), Since: time.Unix(h.GetStateSince(), 0).UTC(),
		Limits: limitsShape{
			Up: h.GetLimits().GetUp(), Down: h.GetLimits().GetDown(), Quota: h.GetLimits().GetQuota(),
			High: h.GetLimits().GetHigh(), Low: h.GetLimits().GetLow(),
		},
	}
}

// list converts the elements of a list; the result is never nil, so that it is [] in JSON.
func list[T, S any](in []T, convert func(T) S) []S {
	out := make([]S, 0, len(in))
	for _, v := range in {
		out = append(out, convert(v))
	}
	return out
}

// enumText turns HOST_STATE_ALIVE into "alive": the lower-case name without the prefix of its type.
func enumText(e interface{ String() string }, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(e.String(), prefix))
}
