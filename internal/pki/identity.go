package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// An Identity is a host's place in its cluster: its key and certificate, and the authorities that it believes. It is safe
// for concurrent use; a renewed certificate is used by every configuration made from it, from the next handshake on.
type Identity struct {
	in      folder
	cluster string
	host    string
	key     ed25519.PrivateKey
	trust   atomic.Pointer[trust]
	cert    atomic.Pointer[tls.Certificate] // Leaf is set; the chain is leaf, the authority that signed it

	mu sync.Mutex // held while the files are changed
}

// Init makes a new cluster with this host as its first member and writes both to dir, which is created with mode 0700.
// It returns ErrExists if dir holds an identity. Here and below, nil files mean the real one.
func Init(files disk.FS, dir, cluster string) (*Identity, error) {
	r, err := Prepare(files, dir)
	if err != nil {
		return nil, err
	}
	ca, err := NewCA(cluster)
	if err != nil {
		return nil, err
	}
	certDER, err := ca.issue(r.key.Public().(ed25519.PublicKey), r.host)
	if err != nil {
		return nil, err
	}
	return r.adopt(ca, certDER)
}

// Load reads the identity in dir: ErrNoIdentity if there is none, ErrDamaged (naming the file) if its parts do not fit.
// A certificate that has expired is loaded all the same: the host may renew it.
func Load(files disk.FS, dir string) (*Identity, error) {
	in := folderAt(files, dir)
	certDER, err := in.read(hostCertFile, pemCert)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load identity from %s: %w", dir, ErrNoIdentity)
	}
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	id, err := load(in, certDER)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	return id, nil
}

// load reads the rest of an identity.
func load(in folder, certDER []byte) (*Identity, error) {
	caCerts, err := in.readAll(caCertFile, pemCert)
	if err != nil {
		return nil, in.missing(caCertFile, err)
	}
	keys, err := in.caKeys()
	if err != nil {
		return nil, err
	}
	hostKey, err := in.read(hostKeyFile, pemKey)
	if err != nil {
		return nil, in.missing(hostKeyFile, err)
	}
	key, err := parseKey(hostKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, in.path(hostKeyFile), err)
	}
	first, err := newCA(caCerts[0], nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, in.path(caCertFile), err)
	}
	t, err := newTrust(first.cluster, caCerts, keys)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, in.path(caCertFile), err)
	}
	if own, err := in.key(caKeyFile); err != nil || own != nil && !t.trusts(pinOfKey(own)) {
		return nil, fmt.Errorf("%w: %s is of none of the authorities in %s", ErrDamaged, in.path(caKeyFile), in.path(caCertFile))
	}
	id, err := newIdentity(in, t, key, certDER)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, in.path(hostCertFile), err)
	}
	return id, nil
}

// missing makes of a file that is not there a damage: the certificate of the host is.
func (f folder) missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", ErrDamaged, f.path(name))
	}
	return err
}

// newIdentity puts the parts together if they fit. The certificate need not be signed by an authority that is trusted:
// a host that was away while the authority was replaced has it renewed.
func newIdentity(in folder, t *trust, key ed25519.PrivateKey, certDER []byte) (*Identity, error) {
	leaf, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, err
	}
	if !key.Public().(ed25519.PublicKey).Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is of another key than the host's")
	}
	host, err := checkHost(leaf, t.ca.cluster)
	if err != nil {
		return nil, err
	}
	id := &Identity{in: in, cluster: t.ca.cluster, key: key, host: host}
	id.trust.Store(t)
	id.use(leaf)
	return id, nil
}

func (id *Identity) use(leaf *x509.Certificate) {
	t := id.trust.Load()
	by := t.signer(leaf)
	if by == nil {
		by = t.ca.cert
	}
	id.cert.Store(&tls.Certificate{
		Certificate: [][]byte{leaf.Raw, by.Raw}, // a joining host needs to see the authority
		PrivateKey:  id.key,
		Leaf:        leaf,
	})
}

// HostID returns this host's id.
func (id *Identity) HostID() string { return id.host }

// Cluster returns the id of the cluster.
func (id *Identity) Cluster() string { return id.cluster }

// CA returns the authority of the cluster that signs now.
func (id *Identity) CA() *CA { return id.trust.Load().ca }

// SignedBy returns the pin of the authority that has signed this host's certificate; ok is false if this host does not
// trust it any more.
func (id *Identity) SignedBy() (pin [sha256.Size]byte, ok bool) {
	by := id.trust.Load().signer(id.cert.Load().Leaf)
	if by == nil {
		return pin, false
	}
	return pinOf(by), true
}

// Expires returns the end of this host's certificate.
func (id *Identity) Expires() time.Time { return id.cert.Load().Leaf.NotAfter }

// NeedsRenewal reports whether less than RenewBelow of the certificate's life is left, whether another authority signs
// by now than the one that has signed it, or whether it is one of the future: a clock was far ahead that signed it.
func (id *Identity) NeedsRenewal() bool {
	leaf := id.cert.Load().Leaf
	by, ok := id.SignedBy()
	return time.Until(leaf.NotAfter) < RenewBelow || time.Until(leaf.NotBefore) > 0 || !ok || by != id.CA().pin
}

// Renew issues this host a new certificate for its key, writes it to disk and uses it from now on. ErrNoKey if this host
// does not hold the authority's key: then one that does signs CSR, for Use.
func (id *Identity) Renew() error {
	der, err := id.CA().issue(id.key.Public().(ed25519.PublicKey), id.host)
	if err != nil {
		return err
	}
	return id.Use(der)
}

// CSR returns a certificate request for this host's key, PKCS #10 in DER, for CA.SignCSR.
func (id *Identity) CSR() ([]byte, error) { return newCSR(id.key, id.host) }

// Use takes a new certificate, DER, of this host: it writes it to disk and uses it from now on. ErrOtherCluster if the
// authority that signs now has not signed it.
func (id *Identity) Use(certDER []byte) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	leaf, err := x509.ParseCertificate(certDER)
	if err != nil {
		return fmt.Errorf("renew certificate of host %s: %w", id.host, err)
	}
	host, err := verifyHost(leaf, id.CA().cert, id.cluster)
	if err != nil {
		return fmt.Errorf("renew certificate of host %s: %w", id.host, err)
	}
	if host != id.host {
		return fmt.Errorf("renew certificate of host %s: %w: it is that of host %s", id.host, ErrBadCertificate, host)
	}
	if err := id.in.write(hostCertFile, pemCert, certDER); err != nil {
		return fmt.Errorf("renew certificate of host %s: %w", id.host, err)
	}
	id.use(leaf)
	return nil
}

// A Request is a host that wants to join a cluster: a key and no certificate yet.
type Request struct {
	in   folder
	key  ed25519.PrivateKey
	host string
	csr  []byte
}

// Prepare makes a key for this host and keeps it in dir, or takes the one that an earlier attempt left there: a host
// that crashed while it joined has the same id when it tries again with the same token. ErrExists if dir holds an
// identity.
func Prepare(files disk.FS, dir string) (*Request, error) {
	in := folderAt(files, dir)
	if _, err := in.fs.Lstat(in.path(hostCertFile)); err == nil {
		return nil, fmt.Errorf("make identity in %s: %w", dir, ErrExists)
	}
	if err := disk.MakeDir(in.fs, dir, 0o700); err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	key, err := in.hostKey()
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	r := &Request{in: in, key: key, host: hostID(spki)}
	if r.csr, err = newCSR(key, r.host); err != nil {
		return nil, err
	}
	return r, nil
}

func newCSR(key ed25519.PrivateKey, host string) ([]byte, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: host}}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request of host %s: %w", host, err)
	}
	return csr, nil
}

// hostKey returns the key in the folder, a new one if there is none.
func (f folder) hostKey() (ed25519.PrivateKey, error) {
	der, err := f.read(hostKeyFile, pemKey)
	if err == nil {
		key, err := parseKey(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, f.path(hostKeyFile), err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return key, f.write(hostKeyFile, pemKey, marshalKey(key))
}

// HostID returns the id that the host will have.
func (r *Request) HostID() string { return r.host }

// CSR returns the certificate request, PKCS #10 in DER, for CA.SignCSR.
func (r *Request) CSR() []byte { return r.csr }

// Accept takes a member's answer: the host's certificate, the authority's certificate and, if this host is to sign, its
// key (all DER). It trusts none of them before the authority has the pin of the token and the certificate is this
// host's, then writes the identity to disk.
func (r *Request) Accept(pin [sha256.Size]byte, certDER, caCertDER, caKeyDER []byte) (*Identity, error) {
	ca, err := ParseCA(caCertDER, caKeyDER)
	if err != nil {
		return nil, fmt.Errorf("accept certificate of host %s: %w", r.host, err)
	}
	if ca.pin != pin {
		return nil, fmt.Errorf("accept certificate of host %s: %w", r.host, ErrPinMismatch)
	}
	return r.adopt(ca, certDER)
}

// adopt writes the identity, the certificate last: without it there is none, and the attempt can be repeated.
func (r *Request) adopt(ca *CA, certDER []byte) (*Identity, error) {
	id, err := newIdentity(r.in, &trust{ca: ca}, r.key, certDER)
	if err == nil {
		_, err = verifyHost(id.cert.Load().Leaf, ca.cert, ca.cluster)
	}
	if err != nil {
		return nil, fmt.Errorf("accept certificate of host %s: %w", r.host, err)
	}
	if ca.Signs() {
		err = r.in.write(caKeyFile, pemKey, ca.Key())
	} else {
		err = r.in.remove(caKeyFile) // of an attempt that was interrupted
	}
	if err != nil {
		return nil, err
	}
	if err := r.in.write(caCertFile, pemCert, ca.Certificate()); err != nil {
		return nil, err
	}
	if err := r.in.write(hostCertFile, pemCert, certDER); err != nil {
		return nil, err
	}
	return id, nil
}
