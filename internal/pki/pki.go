// Package pki decides who belongs to a cluster: its certificate authority, the certificates of its hosts, the tokens by
// which a new host joins, and the TLS configurations in which the hosts meet.
//
// A host is its key: the host id is a hash of the public key. What counts is the catalogue's list of host ids, which the
// Allow hook of every configuration asks at every handshake: a host that was removed is out at once, without revocation
// lists, and a member is known by its key whichever authority signed its certificate. The signature of an authority
// matters where the catalogue cannot decide: to a machine that joins, which knows the authority by its token, and to a
// host that has not heard of another one yet.
//
// A cluster has one authority that signs, and may trust others beside it while one takes the place of another. The key
// of the authority stands at the hosts that vote; certificates are good for days and are renewed there.
//
// The package promises that the configurations it returns speak TLS 1.3 only, resume no session (each one is checked
// anew), accept no certificate but one of this cluster whose key is the host id it names, and say in plain words why
// they refuse; and that on disk an identity is either whole or absent, with keys readable by their owner only.
//
// Keys are Ed25519. Signing needs no fresh randomness, so a hypervisor or a virtual machine that is restored from a
// snapshot, random generator included, cannot give its key away as it could with ECDSA; and hosts sign at every
// handshake, which Ed25519 does fastest.
package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/internal/reason"
)

var (
	// ErrOtherCluster: the certificate was issued by the authority of another cluster.
	ErrOtherCluster = reason.Sentinel(reason.NotMember, "the certificate belongs to another cluster")
	// ErrNotMember: the certificate is of this cluster, but the host is not, or no longer, on its list.
	ErrNotMember = reason.Sentinel(reason.NotMember, "the host is not a member of this cluster")
	// ErrWrongHost: another host answers than the one that was called.
	ErrWrongHost = errors.New("another host answers at this address")
	// ErrExpired: the certificate is past its end, or one of the two clocks is wrong.
	ErrExpired = errors.New("the certificate has expired or is not yet valid")
	// ErrBadCertificate: none was shown, or it is not one that this package issues.
	ErrBadCertificate = errors.New("not the certificate of a host")
	// ErrBadRequest: a certificate request that the authority does not sign.
	ErrBadRequest = errors.New("not a certificate request of a host")
	// ErrNoKey: this host does not hold the key of the authority. Hosts that vote do.
	ErrNoKey = errors.New("this host does not hold the key of the certificate authority")
	// ErrPinMismatch: the cluster that answers a joining host is not the one that made its token.
	ErrPinMismatch = reason.Sentinel(reason.NotMember, "the cluster that answers is not the one that made the token")

	// ErrBadToken: the text is not a join token, or not all of it.
	ErrBadToken = reason.Sentinel(reason.BadToken, "not a valid join token")
	// ErrTokenExpired: the token was good once; make a new one.
	ErrTokenExpired = errors.New("the join token has expired")

	// ErrNoIdentity: this host is of no cluster yet.
	ErrNoIdentity = reason.Sentinel(reason.NoCluster, "no host certificate")
	// ErrDamaged: the files of the identity do not fit one another.
	ErrDamaged = reason.Sentinel(reason.NotMember, "damaged host identity")
	// ErrExists: there is an identity already where a new one should go.
	ErrExists = errors.New("a host identity is already there")
)

const (
	// HostLife is how long the certificate of a host is good. A host has its own renewed once less than RenewBelow is left.
	HostLife = 7 * 24 * time.Hour
	// RenewBelow leaves days to bring back hosts that can sign. A host that was switched off for longer renews when it
	// starts: that takes its key, and no certificate that is still good.
	RenewBelow = 5 * 24 * time.Hour
	// CALife outlasts the hardware: an authority is replaced because its key is known to others, and never by its age.
	CALife = 50 * 365 * 24 * time.Hour
	// backdated is how long before its signing a certificate begins: so far a clock may be behind that of the one who
	// signed.
	backdated = 30 * 24 * time.Hour
)

const (
	// hostIDSize is enough that nobody finds a second key with the id of a member (2^128 tries).
	hostIDSize = 16
	uriScheme  = "virtswarm"
)

// clusterPattern keeps cluster ids fit for a URI's host part and a log line.
var clusterPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidateCluster checks a cluster id: 1 to 63 of a-z, 0-9 and inner hyphens.
func ValidateCluster(cluster string) error {
	if !clusterPattern.MatchString(cluster) {
		return fmt.Errorf("cluster id %.80q: want 1 to 63 of a-z, 0-9 and inner hyphens", cluster)
	}
	return nil
}

// HostIDOf returns the id of the host that holds the certificate's key: the first 16 bytes of the SHA-256 of its
// SubjectPublicKeyInfo in lower-case hex. It says nothing about who signed the certificate.
func HostIDOf(cert *x509.Certificate) string { return hostID(cert.RawSubjectPublicKeyInfo) }

func hostID(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:hostIDSize])
}

// pinOf is what tokens pin: the SHA-256 of the authority's SubjectPublicKeyInfo.
func pinOf(ca *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(ca.RawSubjectPublicKeyInfo) }

// clusterURI names a cluster, or a host in it if host is not empty.
func clusterURI(cluster, host string) *url.URL {
	u := &url.URL{Scheme: uriScheme, Host: cluster}
	if host != "" {
		u.Path = "/host/" + host
	}
	return u
}

// namesOf reads the cluster and host that a certificate claims by its only URI; host is empty for an authority.
func namesOf(cert *x509.Certificate) (cluster, host string, err error) {
	if len(cert.URIs) != 1 {
		return "", "", fmt.Errorf("%w: it holds %d URIs, want one", ErrBadCertificate, len(cert.URIs))
	}
	u := cert.URIs[0]
	host = strings.TrimPrefix(u.Path, "/host/")
	if u.String() != clusterURI(u.Host, host).String() || u.Scheme != uriScheme || ValidateCluster(u.Host) != nil {
		return "", "", fmt.Errorf("%w: it names %.120q", ErrBadCertificate, u.String())
	}
	return u.Host, host, nil
}
