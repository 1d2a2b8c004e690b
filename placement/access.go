package placement

import (
	"path"
	"slices"
	"strings"
)

// MayRead reports whether the guest of a domain may read a file whose policy is the pattern (see ValidateGuests). A
// pattern that has the form of a UUID means that domain alone, never one that goes by such a name; one that is not
// valid lets nobody read.
func (d Domain) MayRead(pattern string) bool {
	if ValidateGuests(pattern) != nil {
		return false
	}
	switch {
	case pattern == "none":
		return false
	case pattern == "all":
		return true
	case ValidUUID(pattern):
		return pattern == d.UUID
	}
	if tag, ok := strings.CutPrefix(pattern, "tag:"); ok {
		return slices.Contains(d.Tags, tag)
	}
	match, _ := path.Match(pattern, d.Name)
	return match
}

// PushPrefix is what the names of the files begin with that the guest of a domain publishes, the slash at the end
// included; "" if it may publish nothing.
func (d Domain) PushPrefix() string {
	switch {
	case d.Push == nil:
		return ""
	case d.Push.Prefix != "":
		return d.Push.Prefix + "/"
	}
	return "guests/" + d.UUID + "/"
}

// PushGuests is the policy of what it publishes.
func (d Domain) PushGuests() string {
	if d.Push == nil || d.Push.Guests == "" {
		return "none"
	}
	return d.Push.Guests
}

// BytesUnder returns what the newest versions of all files whose names begin with a prefix have together, without the
// file of the name except.
func (s *State) BytesUnder(prefix, except string) (bytes int64) {
	for _, f := range s.Names(prefix) {
		if f.Name != except {
			bytes += f.Newest().Size
		}
	}
	return bytes
}
