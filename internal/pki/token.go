package pki

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// The join token, version 1, is the prefix and then, in base64url without padding (multi-byte numbers big-endian):
//
//	0       1           17              49          81        89         93
//	+-------+-----------+---------------+-----------+---------+----------+
//	| 1     | token id  | secret        | pin       | expires | checksum |
//	+-------+-----------+---------------+-----------+---------+----------+
//	  u8      16 random   a MAC, below    SHA-256 of  u64 Unix  first 4 of the
//	                                      CA's SPKI   seconds   SHA-256 of 0..89
//
// The checksum finds typing errors before anything is dialled; it protects against nobody. The secret is HMAC-SHA256 of
// the id and the end, by a key that members have: so each member tells a token that was never made from one that was,
// with nothing but arithmetic, and asks nobody about the former. The catalogue has that key, of TokenKeySize random
// bytes, since cluster version 4; before that it is derived from the CA's.
const (
	tokenPrefix   = "vst1."
	tokenVersion  = 1
	tokenBody     = 1 + 16 + 32 + 32 + 8
	tokenChecksum = 4
	// maxTokenTime is the end of year 9999, beyond which times do not print.
	maxTokenTime = 253402300799
)

// tokenText is the length of a token's text after the prefix: all tokens of a version are equally long.
var tokenText = base64.RawURLEncoding.EncodedLen(tokenBody + tokenChecksum)

// A Token lets one host join a cluster, once, until it expires. It proves the cluster to the host (by the pin) and the
// host to the cluster (by the secret). Whoever has it can join.
type Token struct {
	ID      [16]byte // under which the catalogue knows it
	Secret  [32]byte
	Pin     [sha256.Size]byte // see CA.Pin
	Expires time.Time         // whole seconds
}

// TokenKeySize is the size of the key by which members know tokens, in bytes.
const TokenKeySize = 32

// NewToken makes a token for this cluster that is good for ttl, by the catalogue's key for tokens or, if that is empty,
// the authority's (ErrNoKey). The caller puts its hash into the catalogue.
func (ca *CA) NewToken(ttl time.Duration, key []byte) (Token, error) {
	t := Token{Pin: ca.pin, Expires: time.Unix(time.Now().Add(ttl).Unix(), 0)}
	rand.Read(t.ID[:]) // never fails
	if len(key) == 0 {
		if key = ca.ownTokenKey(); key == nil {
			return Token{}, fmt.Errorf("make join token: %w", ErrNoKey)
		}
	}
	t.Secret = tokenSecret(t, key)
	return t, nil
}

// ownTokenKey derives a key for tokens from that of the authority; nil if this host does not hold it.
func (ca *CA) ownTokenKey() []byte {
	if ca.key == nil {
		return nil
	}
	key := sha256.Sum256(append([]byte("virtswarm join token 1"), ca.key.Seed()...))
	return key[:]
}

// tokenSecret returns the secret of a token with that id and end.
func tokenSecret(t Token, key []byte) (secret [sha256.Size]byte) {
	mac := hmac.New(sha256.New, key)
	mac.Write(t.ID[:])
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(t.Expires.Unix())))
	mac.Sum(secret[:0])
	return secret
}

// Made is ErrBadToken unless the token was made for this authority, by the catalogue's key for tokens (which may be
// empty) or the authority's. Whether it was used, the catalogue knows. It takes microseconds: ask it before anything
// that costs more.
func (ca *CA) Made(t Token, key []byte) error {
	if t.Pin != ca.pin {
		return fmt.Errorf("%w: it was not made by this cluster, or before `virtswarm ca rotate`", ErrBadToken)
	}
	for _, key := range [][]byte{key, ca.ownTokenKey()} {
		if own := tokenSecret(t, key); len(key) > 0 && hmac.Equal(own[:], t.Secret[:]) {
			return nil
		}
	}
	return fmt.Errorf("%w: it was not made by this cluster", ErrBadToken)
}

// Encode returns the token's text, secret included.
func (t Token) Encode() string {
	p := make([]byte, 0, tokenBody+tokenChecksum)
	p = append(p, tokenVersion)
	p = append(p, t.ID[:]...)
	p = append(p, t.Secret[:]...)
	p = append(p, t.Pin[:]...)
	p = binary.BigEndian.AppendUint64(p, uint64(t.Expires.Unix()))
	sum := sha256.Sum256(p)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(p, sum[:tokenChecksum]...))
}

// String names the token by its id and keeps the secret out of logs.
func (t Token) String() string { return "token " + hex.EncodeToString(t.ID[:]) }

// GoString keeps the secret out of %#v too.
func (t Token) GoString() string { return t.String() }

// Hash returns what the catalogue keeps of the token: the SHA-256 of its id and secret. Nobody can guess the
// secret, so that the hash gives nothing away.
func (t Token) Hash() [sha256.Size]byte {
	return sha256.Sum256(append(t.ID[:], t.Secret[:]...))
}

// Matches reports, in constant time, whether hash is that of the token.
func (t Token) Matches(hash [sha256.Size]byte) bool {
	own := t.Hash()
	return subtle.ConstantTimeCompare(own[:], hash[:]) == 1
}

// Expired reports whether the token is past its end, by this host's clock.
func (t Token) Expired() bool { return time.Now().After(t.Expires) }

// ParseToken reads the text of a token; space around it is allowed. Every error is an ErrBadToken and says what is
// wrong. A token past its end is returned together with an error that is ErrBadToken and ErrTokenExpired.
func ParseToken(s string) (Token, error) {
	p, err := decodeToken(strings.TrimSpace(s))
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	var t Token
	p = p[1:]
	p = p[copy(t.ID[:], p):]
	p = p[copy(t.Secret[:], p):]
	p = p[copy(t.Pin[:], p):]
	expires := binary.BigEndian.Uint64(p)
	if expires > maxTokenTime {
		return Token{}, fmt.Errorf("%w: its end lies beyond the year 9999", ErrBadToken)
	}
	t.Expires = time.Unix(int64(expires), 0)
	if t.Expired() {
		return t, fmt.Errorf("%w: %w, at %s; make a new one with `virtswarm token` on any member", ErrBadToken,
			ErrTokenExpired, t.Expires.UTC().Format(time.RFC3339))
	}
	return t, nil
}

// decodeToken returns the checked bytes of a token.
func decodeToken(s string) ([]byte, error) {
	text, ok := strings.CutPrefix(s, tokenPrefix)
	switch {
	case !ok:
		return nil, fmt.Errorf("it does not start with %q", tokenPrefix)
	case len(text) < tokenText:
		return nil, fmt.Errorf("it is truncated: %d of %d characters", len(s), len(tokenPrefix)+tokenText)
	case len(text) > tokenText:
		return nil, fmt.Errorf("it is too long: %d characters, want %d", len(s), len(tokenPrefix)+tokenText)
	}
	p, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(p) != tokenBody+tokenChecksum { // the decoder skips line breaks
		return nil, fmt.Errorf("it holds characters that no token has")
	}
	sum := sha256.Sum256(p[:tokenBody])
	if [tokenChecksum]byte(sum[:tokenChecksum]) != [tokenChecksum]byte(p[tokenBody:]) {
		return nil, fmt.Errorf("its checksum is wrong: it was mistyped or altered")
	}
	if p[0] != tokenVersion {
		return nil, fmt.Errorf("it has version %d, this program knows %d", p[0], tokenVersion)
	}
	return p, nil
}
