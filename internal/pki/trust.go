package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

const (
	// maxAuthorities bounds the authorities that a host trusts at a time: the one that signs, and those that it replaced
	// or that will replace it.
	maxAuthorities = 8
	// maxPast bounds those that are remembered after that. The oldest are forgotten first.
	maxPast = 32
)

// trust is what a host believes of authorities. It does not change.
type trust struct {
	ca     *CA                 // signs now
	others []*x509.Certificate // are trusted beside it
}

// signer returns the authority that has signed a certificate; nil if this host does not trust it.
func (t *trust) signer(leaf *x509.Certificate) *x509.Certificate {
	for i := -1; i < len(t.others); i++ {
		ca := t.ca.cert
		if i >= 0 {
			ca = t.others[i]
		}
		if leaf.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

// certificates returns the certificates of all authorities, the one that signs first.
func (t *trust) certificates() [][]byte {
	all := [][]byte{t.ca.cert.Raw}
	for _, c := range t.others {
		all = append(all, c.Raw)
	}
	return all
}

// newTrust reads the certificates of authorities, DER, of which the first signs. keys are those that this host holds.
func newTrust(cluster string, certs [][]byte, keys []ed25519.PrivateKey) (*trust, error) {
	if len(certs) == 0 || len(certs) > maxAuthorities {
		return nil, fmt.Errorf("%d certificates of authorities, want 1 to %d", len(certs), maxAuthorities)
	}
	t := new(trust)
	for i, der := range certs {
		ca, err := newCA(der, nil)
		if err != nil {
			return nil, err
		}
		if ca.cluster != cluster {
			return nil, fmt.Errorf("%w: the authority is of %s, not %s", ErrOtherCluster, ca.cluster, cluster)
		}
		if i > 0 {
			t.others = append(t.others, ca.cert)
			continue
		}
		for _, key := range keys {
			if pinOfKey(key) == ca.pin {
				ca.key = key
			}
		}
		t.ca = ca
	}
	return t, nil
}

// pinOfKey is the pin of the authority that has a key.
func pinOfKey(key ed25519.PrivateKey) [sha256.Size]byte {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic("pki: an Ed25519 key cannot be marshalled: " + err.Error()) // not for keys of this type
	}
	return sha256.Sum256(spki)
}

// PinOf returns the pin of the authority that a certificate, DER, is of: see CA.Pin.
func PinOf(certDER []byte) (pin [sha256.Size]byte, err error) {
	ca, err := newCA(certDER, nil)
	if err != nil {
		return pin, err
	}
	return ca.pin, nil
}

// caKeys reads the keys of authorities that are on disk, at most two: of the one that signs, and of its successor.
func (f folder) caKeys() (keys []ed25519.PrivateKey, err error) {
	for _, name := range []string{caKeyFile, nextKeyFile} {
		der, err := f.read(name, pemKey)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		key, err := parseKey(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, f.path(name), err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Trust makes this host believe these authorities of its cluster from now on, and no others: active signs. It writes
// them to disk, and takes the key of active into use if this host holds it. Keys of other authorities are removed, but
// for that of a successor (see HoldKey) as long as it is among others.
func (id *Identity) Trust(active []byte, others [][]byte) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	keys, err := id.in.caKeys()
	if err != nil {
		return fmt.Errorf("trust authorities: %w", err)
	}
	t, err := newTrust(id.cluster, append([][]byte{active}, others...), keys)
	if err != nil {
		return fmt.Errorf("trust authorities: %w", err)
	}
	if err := id.notePast(t); err != nil {
		return fmt.Errorf("trust authorities: %w", err)
	}
	// First the certificates: a start takes whichever key fits the first one.
	if err := id.in.writeAll(caCertFile, pemCert, t.certificates()); err != nil {
		return fmt.Errorf("trust authorities: %w", err)
	}
	id.trust.Store(t)
	id.use(id.cert.Load().Leaf)
	return id.tidyKeys(t)
}

// notePast remembers the authorities that t does not trust any more.
func (id *Identity) notePast(t *trust) error {
	past, err := id.past()
	if err != nil {
		return err
	}
	known := len(past)
	for _, der := range id.trust.Load().certificates() {
		pin, err := PinOf(der)
		if err != nil {
			return err
		}
		if !t.trusts(pin) && !slices.ContainsFunc(past, func(p []byte) bool { return bytes.Equal(p, der) }) {
			past = append(past, der)
		}
	}
	if len(past) == known {
		return nil
	}
	return id.in.writeAll(pastFile, pemCert, past[max(0, len(past)-maxPast):])
}

func (id *Identity) past() ([][]byte, error) {
	past, err := id.in.readAll(pastFile, pemCert)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return past, err
}

// Knew reports whether an authority with this pin is trusted or once was: a token of it is of this cluster.
func (id *Identity) Knew(pin [sha256.Size]byte) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.trust.Load().trusts(pin) {
		return true
	}
	past, err := id.past()
	return err == nil && slices.ContainsFunc(past, func(der []byte) bool {
		p, err := PinOf(der)
		return err == nil && p == pin
	})
}

// tidyKeys puts the keys on disk in their places: that of the authority that signs, and that of its successor.
func (id *Identity) tidyKeys(t *trust) error {
	next, err := id.in.key(nextKeyFile)
	if err != nil {
		return err
	}
	if next != nil && pinOfKey(next) == t.ca.pin {
		if err := id.in.fs.Rename(id.in.path(nextKeyFile), id.in.path(caKeyFile)); err != nil {
			return fmt.Errorf("take the key of the authority into use: %w", err)
		}
		return id.in.fs.SyncDir(id.in.dir)
	}
	if next != nil && !t.trusts(pinOfKey(next)) {
		if err := id.in.remove(nextKeyFile); err != nil {
			return err
		}
	}
	own, err := id.in.key(caKeyFile)
	if err != nil || own == nil || pinOfKey(own) == t.ca.pin {
		return err
	}
	return id.in.remove(caKeyFile)
}

// trusts reports whether an authority is among those that are trusted.
func (t *trust) trusts(pin [sha256.Size]byte) bool {
	for _, c := range t.others {
		if pinOf(c) == pin {
			return true
		}
	}
	return t.ca.pin == pin
}

// key reads the key in a file, nil if there is none.
func (f folder) key(name string) (ed25519.PrivateKey, error) {
	der, err := f.read(name, pemKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, f.path(name), err)
	}
	return key, nil
}

// TrustedCertificates returns the certificates (DER) of the authorities that this host believes, the one that signs
// first.
func (id *Identity) TrustedCertificates() [][]byte { return id.trust.Load().certificates() }

// HoldsKeys reports whether this host holds the key of any authority.
func (id *Identity) HoldsKeys() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	keys, err := id.in.caKeys()
	return err != nil || len(keys) > 0
}

// HoldKey keeps the key (PKCS #8, DER) of an authority on disk: of the one that signs, which is then in use, or of
// another, which is in use once Trust makes that the one that signs. There is place for one other.
func (id *Identity) HoldKey(pin [sha256.Size]byte, keyDER []byte) error {
	key, err := parseKey(keyDER)
	if err != nil {
		return fmt.Errorf("hold key of an authority: %w", err)
	}
	if pinOfKey(key) != pin {
		return fmt.Errorf("hold key of an authority: %w", ErrPinMismatch)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	t := id.trust.Load()
	name := nextKeyFile
	if t.ca.pin == pin {
		name = caKeyFile
	}
	if err := id.in.write(name, pemKey, keyDER); err != nil {
		return err
	}
	if name == caKeyFile {
		ca := *t.ca
		ca.key = key
		id.trust.Store(&trust{&ca, t.others})
	}
	return nil
}

// HeldKey returns the key (PKCS #8, DER) of an authority, nil if this host does not hold it.
func (id *Identity) HeldKey(pin [sha256.Size]byte) ([]byte, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	keys, err := id.in.caKeys()
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if pinOfKey(key) == pin {
			return marshalKey(key), nil
		}
	}
	return nil, nil
}

// ForgetKeys removes the keys of authorities: this host signs no more.
func (id *Identity) ForgetKeys() error {
	id.mu.Lock()
	defer id.mu.Unlock()
	t := id.trust.Load()
	ca := *t.ca
	ca.key = nil
	id.trust.Store(&trust{&ca, t.others})
	for _, name := range []string{caKeyFile, nextKeyFile} {
		if err := id.in.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file, durably; it may be gone already.
func (f folder) remove(name string) error {
	if err := f.fs.Remove(f.path(name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove %s: %w", f.path(name), err)
	}
	return f.fs.SyncDir(f.dir)
}
