package plan

import (
	"bytes"
	"encoding/binary"
)

// Host names a host: the head of the fingerprint of its key, so that any part of a Host is uniform over hosts.
type Host [16]byte

// Key is what h is to rendezvous hashing: the same number at every host.
func (h Host) Key() uint64 { return binary.LittleEndian.Uint64(h[:]) }

// Less orders hosts. Of two hosts that want a session with each other the lesser one dials.
func (h Host) Less(o Host) bool { return bytes.Compare(h[:], o[:]) < 0 }
