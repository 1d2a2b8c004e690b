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
	"sync/atomic"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// An Identity is a host's place in its cluster: its key and certificate, and the authority. It is safe for concurrent
// use; a renewed certificate is used by every configuration made from it, from the next handshake on.
type Identity struct {
	in   folder
	ca   *CA
	key  ed25519.PrivateKey
	host string
	cert atomic.Pointer[tls.Certificate] // Leaf is set; the chain is leaf, authority
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
	var caCert, caKey, hostKey []byte
	for _, part := range []struct {
		name, kind string
		der        *[]byte
	}{{caCertFile, pemCert, &caCert}, {caKeyFile, pemKey, &caKey}, {hostKeyFile, pemKey, &hostKey}} {
		if *part.der, err = in.read(part.name, part.kind); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("load identity: %w: %s is missing", ErrDamaged, in.path(part.name))
		} else if err != nil {
			return nil, fmt.Errorf("load identity: %w", err)
		}
	}
	ca, err := ParseCA(caCert, caKey)
	if err != nil {
		return nil, fmt.Errorf("load identity from %s: %w: %v", dir, ErrDamaged, err)
	}
	key, err := parseKey(hostKey)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w: %s: %v", ErrDamaged, in.path(hostKeyFile), err)
	}
	id, err := newIdentity(in, ca, key, certDER)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w: %s: %v", ErrDamaged, in.path(hostCertFile), err)
	}
	return id, nil
}

// newIdentity puts the parts together if they fit.
func newIdentity(in folder, ca *CA, key ed25519.PrivateKey, certDER []byte) (*Identity, error) {
	leaf, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, err
	}
	if !key.Public().(ed25519.PublicKey).Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is of another key than the host's")
	}
	host, err := verifyHost(leaf, ca.cert, ca.cluster)
	if err != nil {
		return nil, err
	}
	id := &Identity{in: in, ca: ca, key: key, host: host}
	id.use(leaf)
	return id, nil
}

func (id *Identity) use(leaf *x509.Certificate) {
	id.cert.Store(&tls.Certificate{
		Certificate: [][]byte{leaf.Raw, id.ca.cert.Raw}, // a joining host needs to see the authority
		PrivateKey:  id.key,
		Leaf:        leaf,
	})
}

// HostID returns this host's id.
func (id *Identity) HostID() string { return id.host }

// Cluster returns the id of the cluster.
func (id *Identity) Cluster() string { return id.ca.cluster }

// CA returns the authority of the cluster.
func (id *Identity) CA() *CA { return id.ca }

// Expires returns the end of this host's certificate.
func (id *Identity) Expires() time.Time { return id.cert.Load().Leaf.NotAfter }

// NeedsRenewal reports whether less than RenewBelow of the certificate's life is left, or whether it was signed by a
// clock that was ahead of this one: others may take it for one of the future.
func (id *Identity) NeedsRenewal() bool {
	leaf := id.cert.Load().Leaf
	return time.Until(leaf.NotAfter) < RenewBelow || time.Until(leaf.NotBefore.Add(backdated)) > clockSkew
}

// Renew issues this host a new certificate for its key, writes it to disk and uses it from now on.
func (id *Identity) Renew() error {
	der, err := id.ca.issue(id.key.Public().(ed25519.PublicKey), id.host)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("renew certificate of host %s: %w", id.host, err)
	}
	if err := id.in.write(hostCertFile, pemCert, der); err != nil {
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
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: r.host}}
	if r.csr, err = x509.CreateCertificateRequest(rand.Reader, template, key); err != nil {
		return nil, fmt.Errorf("make certificate request of host %s: %w", r.host, err)
	}
	return r, nil
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

// Accept takes a member's answer: the host's certificate, the authority's certificate and its key (all DER). It trusts
// none of them before the authority has the pin of the token and the certificate is this host's, then writes the
// identity to disk.
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
	id, err := newIdentity(r.in, ca, r.key, certDER)
	if err != nil {
		return nil, fmt.Errorf("accept certificate of host %s: %w", r.host, err)
	}
	for _, part := range []struct {
		name, kind string
		der        []byte
	}{{caKeyFile, pemKey, ca.Key()}, {caCertFile, pemCert, ca.Certificate()}, {hostCertFile, pemCert, certDER}} {
		if err := r.in.write(part.name, part.kind, part.der); err != nil {
			return nil, err
		}
	}
	return id, nil
}
