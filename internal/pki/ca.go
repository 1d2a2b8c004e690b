package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// maxCSR bounds a certificate request before it is parsed, in bytes; those of this package have about 200.
const maxCSR = 4 << 10

// A CA is a certificate authority of one cluster: its certificate and, at hosts that sign, its key. It does not change
// and is safe for concurrent use.
type CA struct {
	cert    *x509.Certificate
	key     ed25519.PrivateKey // nil: this host does not sign
	cluster string
	pin     [sha256.Size]byte
}

// NewCA makes the authority of a new cluster with the given id (see ValidateCluster).
func NewCA(cluster string) (*CA, error) {
	if err := ValidateCluster(cluster); err != nil {
		return nil, err
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of cluster %s: %w", cluster, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "virtswarm cluster " + cluster},
		URIs:                  []*url.URL{clusterURI(cluster, "")},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(CALife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs hosts and no further authority
	}
	der, err := sign(template, template, pub, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate of cluster %s: %w", cluster, err)
	}
	return newCA(der, key)
}

// ParseCA reads what Certificate and Key returned: a certificate and a PKCS #8 key in DER, which may be empty. It makes
// sure that they belong together; whether they are the right ones is for the caller to know (see CA.Pin).
func ParseCA(certDER, keyDER []byte) (*CA, error) {
	if len(keyDER) == 0 {
		return newCA(certDER, nil)
	}
	key, err := parseKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("parse key of the cluster: %w", err)
	}
	return newCA(certDER, key)
}

func newCA(certDER []byte, key ed25519.PrivateKey) (*CA, error) {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("parse certificate of the cluster: %w", err)
	}
	cluster, host, err := namesOf(cert)
	if err != nil {
		return nil, fmt.Errorf("certificate of the cluster: %w", err)
	}
	if !cert.IsCA || host != "" {
		return nil, fmt.Errorf("certificate of cluster %s: %w: not that of an authority", cluster, ErrBadCertificate)
	}
	if key != nil && !key.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
		return nil, fmt.Errorf("certificate of cluster %s: its key is another one", cluster)
	}
	return &CA{cert: cert, key: key, cluster: cluster, pin: pinOf(cert)}, nil
}

// Cluster returns the id of the cluster.
func (ca *CA) Cluster() string { return ca.cluster }

// Pin returns the SHA-256 of the authority's SubjectPublicKeyInfo, by which tokens know the cluster.
func (ca *CA) Pin() [sha256.Size]byte { return ca.pin }

// Certificate returns the authority's certificate in DER. The caller must not change it.
func (ca *CA) Certificate() []byte { return ca.cert.Raw }

// Signs reports whether this host holds the authority's key.
func (ca *CA) Signs() bool { return ca.key != nil }

// Key returns the authority's private key in PKCS #8 DER, nil if this host does not hold it. Whoever has it can make
// certificates of hosts: it goes to voters only.
func (ca *CA) Key() []byte {
	if ca.key == nil {
		return nil
	}
	return marshalKey(ca.key)
}

// SignCSR checks a certificate request (PKCS #10, DER) and issues the certificate of the host that made it. It returns
// the certificate in DER and the host's id; ErrNoKey without the authority's key.
func (ca *CA) SignCSR(csrDER []byte) (certDER []byte, host string, err error) {
	pub, host, err := parseCSR(csrDER)
	if err != nil {
		return nil, "", err
	}
	certDER, err = ca.issue(pub, host)
	return certDER, host, err
}

// HostOfCSR checks a certificate request (PKCS #10, DER) and returns the id of the host that made it.
func HostOfCSR(csrDER []byte) (host string, err error) {
	_, host, err = parseCSR(csrDER)
	return host, err
}

// parseCSR returns the key of a request, and the id of the host that has it. Names that the request asks for beyond its
// own host id are refused, not dropped, so that nobody believes to have got them.
func parseCSR(csrDER []byte) (_ ed25519.PublicKey, host string, err error) {
	if len(csrDER) > maxCSR {
		return nil, "", fmt.Errorf("%w: %d bytes, at most %d", ErrBadRequest, len(csrDER), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %v", ErrBadRequest, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, "", fmt.Errorf("%w: its signature is wrong: %v", ErrBadRequest, err)
	}
	pub, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, "", fmt.Errorf("%w: the key is %v, want Ed25519", ErrBadRequest, csr.PublicKeyAlgorithm)
	}
	host = hostID(csr.RawSubjectPublicKeyInfo)
	if csr.Subject.String() != "CN="+host || len(csr.Extensions) != 0 {
		return nil, "", fmt.Errorf("%w: it asks for more than the name of its key, %s", ErrBadRequest, host)
	}
	return pub, host, nil
}

// issue signs a certificate for the host with this key. It is good for HostLife from now on, and was for as long as it
// is backdated, as far as the authority was.
func (ca *CA) issue(pub ed25519.PublicKey, host string) ([]byte, error) {
	if ca.key == nil {
		return nil, fmt.Errorf("issue certificate of host %s: %w", host, ErrNoKey)
	}
	now := time.Now()
	from := now.Add(-backdated)
	if ca.cert.NotBefore.After(from) { // no certificate is older than its authority; release 0.2.0 takes one that is for damage
		from = ca.cert.NotBefore
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: host},
		URIs:    []*url.URL{clusterURI(ca.cluster, host)},
		// For the likes of curl and Prometheus, which check a name: they can be told to expect this one.
		DNSNames:              []string{host},
		NotBefore:             from,
		NotAfter:              now.Add(HostLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := sign(template, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate of host %s: %w", host, err)
	}
	return der, nil
}

// sign completes template with a random serial number and signs it.
func sign(template, parent *x509.Certificate, pub ed25519.PublicKey, key ed25519.PrivateKey) ([]byte, error) {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	serial[0] &= 0x7f // positive in 16 bytes
	template.SerialNumber = new(big.Int).SetBytes(serial)
	return x509.CreateCertificate(rand.Reader, template, parent, pub, key)
}
