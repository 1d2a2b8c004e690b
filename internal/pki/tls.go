package pki

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"
)

// Allow says whether a host that has proven its key may take part: nil, or why not. signed says that an authority which
// this host trusts has signed the certificate; a member that is known by its key needs no such signature. It is called
// in every handshake, concurrently, and must not block.
type Allow func(hostID string, signed bool) error

// ServerConfig returns the configuration for listening: only hosts of this cluster that allow lets in get through. A
// nil allow lets in every host with a certificate. ALPN is the caller's to add.
func (id *Identity) ServerConfig(allow Allow) *tls.Config {
	c := id.JoinServerConfig()
	c.ClientAuth = tls.RequireAnyClientCert // VerifyConnection does the rest, with better words
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := id.verifyPeer(cs, allow)
		return err
	}
	return c
}

// JoinServerConfig returns the configuration for listening to hosts that want to join and have no certificate yet.
// Nothing may be served under it but the exchange of a token for a certificate.
func (id *Identity) JoinServerConfig() *tls.Config {
	c := baseConfig()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.cert.Load(), nil }
	return c
}

// ClientConfig returns the configuration for calling the host with id expect, or any member if expect is empty. A nil
// allow believes whoever has the key of expect, or a certificate if it is empty.
func (id *Identity) ClientConfig(expect string, allow Allow) *tls.Config {
	c := baseConfig()
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.cert.Load(), nil }
	// Not insecure: hosts are known by their keys, not by the DNS names that the standard check would compare.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if expect == "" {
			_, err := id.verifyPeer(cs, allow)
			return err
		}
		// Whoever has the key of the host that is called is that host.
		host, err := id.verifyPeer(cs, func(host string, signed bool) error {
			if allow == nil {
				return nil
			}
			return allow(host, signed)
		})
		if err == nil && host != expect {
			return fmt.Errorf("%w: host %s, expected %s", ErrWrongHost, host, expect)
		}
		return err
	}
	return c
}

// JoinClientConfig returns the configuration for joining a cluster with a token: whoever answers must present the
// authority that the token pins and a host certificate of it.
func JoinClientConfig(token Token) *tls.Config {
	c := baseConfig()
	c.InsecureSkipVerify = true // as in ClientConfig; what is trusted here is the pin
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		for _, cert := range cs.PeerCertificates[min(1, len(cs.PeerCertificates)):] {
			if pinOf(cert) != token.Pin {
				continue
			}
			cluster, _, err := namesOf(cert)
			if err != nil {
				return err
			}
			_, err = verifyHost(cs.PeerCertificates[0], cert, cluster)
			return err
		}
		return ErrPinMismatch
	}
	return c
}

// ProbeConfig returns the configuration for answering a member that wants to know whether this machine, which has no
// certificate yet, is where it says. It proves its key, and nothing else.
func (r *Request) ProbeConfig() (*tls.Config, error) {
	now := time.Now()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: r.host}, NotBefore: now.Add(-backdated), NotAfter: now.Add(HostLife)}
	der, err := sign(template, template, r.key.Public().(ed25519.PublicKey), r.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate of host %s: %w", r.host, err)
	}
	c := baseConfig()
	c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: r.key}}
	return c, nil
}

// ProbeClientConfig returns the configuration for finding out whether the machine with that host id answers. Nothing may
// be said under it.
func ProbeClientConfig(host string) *tls.Config {
	c := baseConfig()
	c.InsecureSkipVerify = true // as in ClientConfig; whoever has the key is the host
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 || HostIDOf(cs.PeerCertificates[0]) != host {
			return fmt.Errorf("%w: it is not host %s", ErrWrongHost, host)
		}
		return nil
	}
	return c
}

func baseConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A resumed session would outlive a renewed certificate; and hosts keep their connections anyway.
		SessionTicketsDisabled: true,
		// Small first records help browsers on slow links. Here they cost system calls.
		DynamicRecordSizingDisabled: true,
	}
}

// verifyPeer returns the id of the host at the other end if it may take part.
func (id *Identity) verifyPeer(cs tls.ConnectionState, allow Allow) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", fmt.Errorf("%w: none was shown", ErrBadCertificate)
	}
	leaf := cs.PeerCertificates[0]
	host, err := checkHost(leaf, id.cluster)
	if err != nil {
		return "", err
	}
	signed := id.trust.Load().signer(leaf) != nil
	if allow == nil {
		allow = func(_ string, signed bool) error {
			if !signed {
				return errNotSigned
			}
			return nil
		}
	}
	switch err := allow(host, signed); {
	case err == nil:
		return host, nil
	case !signed:
		return "", fmt.Errorf("%w: host %s: %w", ErrOtherCluster, host, errNotSigned)
	default:
		return "", fmt.Errorf("%w: host %s: %w", ErrNotMember, host, err)
	}
}

var errNotSigned = errors.New("its certificate is signed by another authority")

// CheckTime is ErrExpired unless a connection's certificate of the other side is good at a time. It is asked once the
// handshake is done, and apart from it, so that the other side is not told that its certificate is refused: that would
// mean that it is no member (any more), and here one of two clocks may be wrong. A connection that shows no certificate
// passes.
func CheckTime(cs tls.ConnectionState, at time.Time) error {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	leaf := cs.PeerCertificates[0]
	if !at.Before(leaf.NotBefore) && !at.After(leaf.NotAfter) {
		return nil
	}
	return fmt.Errorf("%w: host %s, good from %s to %s, and here it is %s", ErrExpired, HostIDOf(leaf),
		leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
}

// verifyHost checks that leaf is the certificate of a host of this cluster, signed by ca, and returns the id of the
// host. Whether it is good now, CheckTime says. That of the authority has no end that counts: whoever replaces it
// replaces its key.
func verifyHost(leaf, ca *x509.Certificate, cluster string) (string, error) {
	host, err := checkHost(leaf, cluster)
	if err != nil {
		return "", err
	}
	if err := leaf.CheckSignatureFrom(ca); err != nil {
		return "", fmt.Errorf("%w: host %s: %w: %v", ErrOtherCluster, host, errNotSigned, err)
	}
	return host, nil
}

// checkHost checks that leaf is a certificate of the host that has its key, in this cluster, whoever signed it. It
// returns the id of the host.
func checkHost(leaf *x509.Certificate, cluster string) (string, error) {
	named, claimed, err := namesOf(leaf)
	if err != nil {
		return "", err
	}
	if named != cluster {
		return "", fmt.Errorf("%w: %s, not %s", ErrOtherCluster, named, cluster)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || len(pub) != ed25519.PublicKeySize {
		return "", fmt.Errorf("%w: its key is %v, want Ed25519", ErrBadCertificate, leaf.PublicKeyAlgorithm)
	}
	if len(leaf.UnhandledCriticalExtensions) > 0 {
		return "", fmt.Errorf("%w: it has a critical extension that is not known", ErrBadCertificate)
	}
	host := HostIDOf(leaf)
	if claimed != host || leaf.Subject.CommonName != host || leaf.IsCA {
		return "", fmt.Errorf("%w: it names host %.40q, its key is that of %s", ErrBadCertificate, claimed, host)
	}
	return host, nil
}
