package content

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// DigestSize is the length of a Digest in bytes.
const DigestSize = 32

// digestPrefix names the hash in a printed digest, so that another hash can be told apart one day.
const digestPrefix = "b3:"

// ErrBadDigest is returned for text that is not a digest.
var ErrBadDigest = errors.New("not a digest (want b3: and 64 lower-case hex digits)")

// Digest is a BLAKE3 hash of 256 bits. The zero Digest is the digest of nothing: it marks a hole.
type Digest [DigestSize]byte

// ParseDigest reads the form that String writes, and no other: upper-case digits are refused, so that a digest
// has one spelling and can be compared, and used as a file name, as text.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	digits, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(digits) != 2*DigestSize || strings.ToLower(digits) != digits {
		return Digest{}, fmt.Errorf("parse digest %.80q: %w", s, ErrBadDigest)
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return Digest{}, fmt.Errorf("parse digest %.80q: %w", s, ErrBadDigest)
	}
	return d, nil
}

// IsZero reports whether d is the digest of nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// Hex returns the 64 lower-case hex digits without a prefix, for use as a file name.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// String returns "b3:" and 64 lower-case hex digits.
func (d Digest) String() string { return digestPrefix + d.Hex() }

// Short returns "b3:" and the first 12 hex digits, for people to read.
func (d Digest) Short() string { return digestPrefix + hex.EncodeToString(d[:6]) }

// MarshalText implements encoding.TextMarshaler in the form of String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it accepts what ParseDigest accepts.
func (d *Digest) UnmarshalText(p []byte) error {
	v, err := ParseDigest(string(p))
	if err != nil {
		return err
	}
	*d = v
	return nil
}
