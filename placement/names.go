package placement

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ValidateName checks a file name: path-like, valid UTF-8, 1 to MaxName bytes, elements separated by single
// slashes, none of them "." or "..", no slash at either end, no control characters (C0, DEL, C1). Spaces are fine.
// Names are compared byte by byte; nothing is normalised.
func ValidateName(name string) error {
	if why := nameFault(name, MaxName); why != "" {
		return fmt.Errorf("file name %.80q %s: %w", name, why, ErrInvalidName)
	}
	for element := range strings.SplitSeq(name, "/") {
		switch element {
		case "":
			return fmt.Errorf("file name %.80q has an empty path element: %w", name, ErrInvalidName)
		case ".", "..":
			return fmt.Errorf("file name %.80q has the path element %q: %w", name, element, ErrInvalidName)
		}
	}
	return nil
}

// ValidateHostName checks a host's name: 1 to MaxHostName bytes of letters, digits, '-', '_' and '.', beginning with
// a letter or digit. A name must not look like a host id (32 hex digits), so that a command line may take either.
func ValidateHostName(name string) error {
	if name == "" || len(name) > MaxHostName {
		return fmt.Errorf("host name %.80q has %d bytes, must have 1 to %d: %w", name, len(name), MaxHostName, ErrInvalidHost)
	}
	for i, c := range []byte(name) {
		if isAlnum(c) || (i > 0 && (c == '-' || c == '_' || c == '.')) {
			continue
		}
		return fmt.Errorf("host name %.80q has %q at byte %d: %w", name, c, i, ErrInvalidHost)
	}
	if HostID(name).Valid() {
		return fmt.Errorf("host name %q looks like a host id: %w", name, ErrInvalidHost)
	}
	return nil
}

// Valid reports whether the id has the form of one: 32 lower-case hex digits.
func (id HostID) Valid() bool {
	return len(id) == 32 && isHex(string(id))
}

// ValidateGuests checks a guest pattern: "none", "all", "tag:NAME", a domain's UUID, or a glob (path.Match) over
// domain names.
func ValidateGuests(pattern string) error {
	fail := func(why string) error {
		return fmt.Errorf("guest pattern %.80q %s: %w", pattern, why, ErrInvalidGuests)
	}
	if why := nameFault(pattern, MaxGuests); why != "" {
		return fail(why)
	}
	if tag, ok := strings.CutPrefix(pattern, "tag:"); ok {
		if why := tagFault(tag); why != "" {
			return fail(why)
		}
		return nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return fail("is not a valid glob")
	}
	return nil
}

// ValidateTag checks a domain's tag: 1 to MaxTag bytes of letters, digits, '-', '_' and '.'.
func ValidateTag(tag string) error {
	if why := tagFault(tag); why != "" {
		return fmt.Errorf("tag %.80q %s: %w", tag, why, ErrInvalidDomain)
	}
	return nil
}

func tagFault(tag string) string {
	for _, c := range []byte(tag) {
		if !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return fmt.Sprintf("has %q in its tag", c)
		}
	}
	switch {
	case tag == "":
		return "has an empty tag"
	case len(tag) > MaxTag:
		return fmt.Sprintf("has a tag of %d bytes, at most %d", len(tag), MaxTag)
	}
	return ""
}

func nameFault(s string, limit int) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > limit:
		return fmt.Sprintf("has %d bytes, at most %d", len(s), limit)
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	}
	for i, r := range s {
		if r < 0x20 || (r >= 0x7f && r < 0xa0) {
			return fmt.Sprintf("has the control character %U at byte %d", r, i)
		}
	}
	return ""
}

func validateHost(h Host) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("host %q: %s: %w", h.ID, fmt.Sprintf(format, args...), ErrInvalidHost)
	}
	if !h.ID.Valid() {
		return fail("its id is not 32 hex digits")
	}
	if err := ValidateHostName(h.Name); err != nil {
		return err
	}
	if why := addrFault(h.Addr); why != "" {
		return fail("address %.80q %s", h.Addr, why)
	}
	if h.Weight > MaxWeight {
		return fail("weight %d is more than %d", h.Weight, MaxWeight)
	}
	if err := h.Limits.validate(); err != nil {
		return fmt.Errorf("host %q: %w", h.ID, err)
	}
	return validateLabels(h.ID, h.Labels)
}

func (l Limits) validate() error {
	switch high, low := l.Watermarks(); {
	case l.Up < 0 || l.Up > MaxRate || l.Down < 0 || l.Down > MaxRate:
		return fmt.Errorf("rate limits of %d up, %d down bytes/s: must be 0 to %d: %w", l.Up, l.Down, int64(MaxRate), ErrInvalidHost)
	case l.Quota < 0 || l.Quota > MaxQuota:
		return fmt.Errorf("quota of %d bytes: must be 0 to %d: %w", l.Quota, int64(MaxQuota), ErrInvalidHost)
	case l.High < 0 || l.Low < 0 || high > 100 || low >= high:
		return fmt.Errorf("watermarks of %d and %d %%: the low one must be below the high one, and that at most 100: %w", high, low, ErrInvalidHost)
	}
	return nil
}

// addrFault says what is wrong with a host:port, the host in brackets if it is an IPv6 address.
func addrFault(addr string) string {
	if why := nameFault(addr, MaxAddr); why != "" {
		return why
	}
	colon := strings.LastIndexByte(addr, ':')
	if colon <= 0 {
		return "is not host:port"
	}
	host := addr[:colon]
	if strings.ContainsAny(host, ":[]") && (host[0] != '[' || host[len(host)-1] != ']') {
		return "is not host:port"
	}
	if port, err := strconv.ParseUint(addr[colon+1:], 10, 16); err != nil || port == 0 {
		return "has no valid port number"
	}
	return ""
}

func validateLabels(id HostID, labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("host %q: %d labels, at most %d: %w", id, len(labels), MaxLabels, ErrInvalidHost)
	}
	for k, v := range labels {
		if why := nameFault(k, MaxLabel); why != "" {
			return fmt.Errorf("host %q: label key %.80q %s: %w", id, k, why, ErrInvalidHost)
		}
		if v == "" {
			continue
		}
		if why := nameFault(v, MaxLabel); why != "" {
			return fmt.Errorf("host %q: label %q: value %.80q %s: %w", id, k, v, why, ErrInvalidHost)
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
