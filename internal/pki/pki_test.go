package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func mustInit(t *testing.T, cluster string) *Identity {
	t.Helper()
	id, err := Init(nil, filepath.Join(t.TempDir(), "pki"), cluster)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// join makes a further host of the cluster of id.
func join(t *testing.T, id *Identity) *Identity {
	t.Helper()
	r, err := Prepare(nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, host, err := id.CA().SignCSR(r.CSR())
	if err != nil || host != r.HostID() {
		t.Fatalf("sign: %s, %v", host, err)
	}
	member, err := r.Accept(id.CA().Pin(), cert, id.CA().Certificate(), id.CA().Key())
	if err != nil {
		t.Fatal(err)
	}
	return member
}

// handshake returns what each side has against the other. In TLS 1.3 the client may hear of it with its first Read.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	errs := make(chan error, 1)
	go func() {
		c := tls.Server(a, server)
		err := c.HandshakeContext(t.Context())
		if err == nil {
			_, err = c.Write([]byte{1})
		}
		a.Close()
		errs <- err
	}()
	c := tls.Client(b, client)
	clientErr = c.HandshakeContext(t.Context())
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
		if v := c.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("version %x", v)
		}
	}
	b.Close()
	return <-errs, clientErr
}

func TestMembersMeet(t *testing.T) {
	a := mustInit(t, "one")
	b := join(t, a)
	c := join(t, b) // any member can admit
	var asked []string
	allow := func(host string, signed bool) error { asked = append(asked, fmt.Sprint(host, " ", signed)); return nil }
	s, cl := handshake(t, a.ServerConfig(allow), c.ClientConfig(a.HostID(), nil))
	if s != nil || cl != nil {
		t.Errorf("server: %v, client: %v", s, cl)
	}
	if len(asked) != 1 || asked[0] != c.HostID()+" true" || len(c.HostID()) != 32 {
		t.Errorf("asked about %v", asked)
	}
	if a.Cluster() != "one" || c.Cluster() != "one" {
		t.Errorf("clusters %q, %q", a.Cluster(), c.Cluster())
	}
}

// TestRefusals makes one thing wrong at a time.
func TestRefusals(t *testing.T) {
	a := mustInit(t, "one")
	b := join(t, a)
	other := mustInit(t, "two")
	namesake := mustInit(t, "one") // another cluster that was given the same name
	deny := func(string, bool) error { return errors.New("removed last week") }
	token := newToken(t, a.CA())
	wrongPin := token
	wrongPin.Pin[3]++
	nobody := b.ClientConfig("", nil)
	nobody.GetClientCertificate = nil
	old := b.ClientConfig("", nil)
	old.MaxVersion = tls.VersionTLS12
	old.MinVersion = tls.VersionTLS12
	for name, test := range map[string]struct {
		server, client *tls.Config
		serverErr      error
		clientErr      error // nil: an alert
		says           string
	}{
		"client of another cluster":   {a.ServerConfig(nil), trusting(other), ErrOtherCluster, nil, "two, not one"},
		"client of a namesake":        {a.ServerConfig(nil), trusting(namesake), ErrOtherCluster, nil, "authority"},
		"server of another cluster":   {other.ServerConfig(nil), a.ClientConfig("", nil), nil, ErrOtherCluster, "two, not one"},
		"server of a namesake":        {namesake.ServerConfig(nil), a.ClientConfig("", nil), nil, ErrOtherCluster, "authority"},
		"client not allowed":          {a.ServerConfig(deny), b.ClientConfig("", nil), ErrNotMember, nil, "removed last week"},
		"server not allowed":          {a.ServerConfig(nil), b.ClientConfig("", deny), nil, ErrNotMember, a.HostID()},
		"another host":                {a.ServerConfig(nil), b.ClientConfig(b.HostID(), nil), nil, ErrWrongHost, a.HostID()},
		"no certificate":              {a.ServerConfig(nil), nobody, errAny, nil, ""},
		"old TLS":                     {a.ServerConfig(nil), old, errAny, nil, ""},
		"joining with a wrong pin":    {a.JoinServerConfig(), JoinClientConfig(wrongPin), nil, ErrPinMismatch, ""},
		"joining another cluster":     {other.JoinServerConfig(), JoinClientConfig(token), nil, ErrPinMismatch, ""},
		"joining a namesake":          {namesake.JoinServerConfig(), JoinClientConfig(token), nil, ErrPinMismatch, ""},
		"joining at the members' end": {a.ServerConfig(nil), JoinClientConfig(token), errAny, nil, ""},
		"a host as authority":         {chain(b, b.cert.Load().Leaf.Raw, b.cert.Load().Leaf.Raw), JoinClientConfig(token), nil, ErrPinMismatch, ""},
		"authority without its host":  {chain(other, other.cert.Load().Leaf.Raw, a.CA().cert.Raw), JoinClientConfig(token), nil, ErrOtherCluster, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := handshake(t, test.server, test.client)
			if test.serverErr != nil && test.serverErr != errAny && !errors.Is(s, test.serverErr) || s == nil && test.serverErr != nil {
				t.Errorf("server: %v", s)
			}
			if c == nil || test.clientErr != nil && !errors.Is(c, test.clientErr) {
				t.Errorf("client: %v", c)
			}
			if said := errors.Join(s, c).Error(); !strings.Contains(said, test.says) {
				t.Errorf("it does not say %q: %s", test.says, said)
			}
		})
	}
}

var errAny = errors.New("any")

// trusting is the configuration of a client that does not mind whom it calls.
func trusting(id *Identity) *tls.Config {
	c := id.ClientConfig("", nil)
	c.VerifyConnection = nil
	return c
}

// chain is the configuration of a server that presents other certificates than it should.
func chain(id *Identity, certs ...[]byte) *tls.Config {
	c := id.JoinServerConfig()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: certs, PrivateKey: id.key}, nil
	}
	return c
}

func TestJoin(t *testing.T) {
	a := mustInit(t, "one")
	token := newToken(t, a.CA())
	if s, c := handshake(t, a.JoinServerConfig(), JoinClientConfig(token)); s != nil || c != nil {
		t.Fatalf("server: %v, client: %v", s, c)
	}
	dir := t.TempDir()
	first, err := Prepare(nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Prepare(nil, dir) // after a crash
	if err != nil || again.HostID() != first.HostID() {
		t.Fatalf("the second attempt is another host: %v", err)
	}
	if _, err := Load(nil, dir); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("half way: %v", err)
	}
	cert, _, err := a.CA().SignCSR(first.CSR())
	if err != nil {
		t.Fatal(err)
	}
	other := mustInit(t, "two")
	if _, err := first.Accept(token.Pin, cert, other.CA().Certificate(), other.CA().Key()); !errors.Is(err, ErrPinMismatch) {
		t.Errorf("authority of another cluster: %v", err)
	}
	if _, err := first.Accept(token.Pin, cert, a.CA().Certificate(), other.CA().Key()); err == nil {
		t.Error("took the key of another authority")
	}
	if _, err := first.Accept(token.Pin, a.cert.Load().Leaf.Raw, a.CA().Certificate(), a.CA().Key()); err == nil {
		t.Error("took the certificate of another host")
	}
	if _, err := first.Accept(token.Pin, cert, a.CA().Certificate(), a.CA().Key()); err != nil {
		t.Fatal(err)
	}
	id, err := Load(nil, dir)
	if err != nil || id.HostID() != first.HostID() || id.CA().Pin() != token.Pin {
		t.Fatalf("load: %v", err)
	}
	if _, err := Prepare(nil, dir); !errors.Is(err, ErrExists) {
		t.Errorf("prepare over an identity: %v", err)
	}
	if _, err := Init(nil, dir, "three"); !errors.Is(err, ErrExists) {
		t.Errorf("init over an identity: %v", err)
	}
}

func TestFiles(t *testing.T) {
	id := mustInit(t, "one")
	for _, name := range []string{caCertFile, caKeyFile, hostCertFile, hostKeyFile} {
		info, err := os.Stat(filepath.Join(id.in.dir, name))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(id.in.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v", info.Mode())
	}
	entries, _ := os.ReadDir(id.in.dir)
	if len(entries) != 4 {
		t.Errorf("%d files", len(entries))
	}
}

func TestDamaged(t *testing.T) {
	strange := mustInit(t, "two")
	for name, damage := range map[string]func(dir string) error{
		"no authority":     func(dir string) error { return os.Remove(filepath.Join(dir, caCertFile)) },
		"no key":           func(dir string) error { return os.Remove(filepath.Join(dir, hostKeyFile)) },
		"empty":            func(dir string) error { return os.Truncate(filepath.Join(dir, hostCertFile), 0) },
		"cut":              func(dir string) error { return os.Truncate(filepath.Join(dir, caKeyFile), 60) },
		"huge":             func(dir string) error { return os.Truncate(filepath.Join(dir, caKeyFile), 1<<30) },
		"another's key":    func(dir string) error { return copyFile(strange.in.dir, dir, hostKeyFile) },
		"another's ca key": func(dir string) error { return copyFile(strange.in.dir, dir, caKeyFile) },
		"another cluster": func(dir string) error {
			return errors.Join(copyFile(strange.in.dir, dir, caKeyFile), copyFile(strange.in.dir, dir, caCertFile))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mustInit(t, "one").in.dir
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(nil, dir); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), dir) {
				t.Errorf("load: %v", err)
			}
		})
	}
}

func copyFile(from, to, name string) error {
	p, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name), p, 0o600)
}

// TestDays lets certificates grow old in a bubble's time.
func TestDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := mustInit(t, "one")
		b := join(t, a)
		time.Sleep(HostLife - RenewBelow - time.Hour)
		if a.NeedsRenewal() {
			t.Error("renewal is wanted too soon")
		}
		time.Sleep(2 * time.Hour)
		if !a.NeedsRenewal() {
			t.Error("no renewal is wanted")
		}
		server := a.ServerConfig(nil) // made before the renewal
		if err := a.Renew(); err != nil || a.NeedsRenewal() {
			t.Fatalf("renew: %v", err)
		}
		if s, c := handshake(t, server, b.ClientConfig(a.HostID(), nil)); s != nil || c != nil {
			t.Errorf("server: %v, client: %v", s, c)
		}
		time.Sleep(RenewBelow)
		// The handshake itself passes: a refusal would say that b is no member.
		if s, c := handshake(t, server, b.ClientConfig(a.HostID(), nil)); s != nil || c != nil {
			t.Errorf("an expired client: server: %v, client: %v", s, c)
		}
		shown := tls.ConnectionState{PeerCertificates: []*x509.Certificate{b.cert.Load().Leaf}}
		if err := CheckTime(shown, time.Now()); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), b.HostID()) {
			t.Errorf("an expired certificate: %v", err)
		}
		b, err := Load(nil, b.in.dir) // it was switched off for long, and helps itself
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Renew(); err != nil {
			t.Fatal(err)
		}
		if b, err = Load(nil, b.in.dir); err != nil {
			t.Fatal(err)
		}
		if s, c := handshake(t, server, b.ClientConfig(a.HostID(), nil)); s != nil || c != nil {
			t.Errorf("server: %v, client: %v", s, c)
		}
	})
}

func TestSignCSR(t *testing.T) {
	ca := mustInit(t, "one").CA()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(template x509.CertificateRequest, key any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	spki, _ := x509.MarshalPKIXPublicKey(key.Public())
	own := pkix.Name{CommonName: hostID(spki)}
	good := request(x509.CertificateRequest{Subject: own}, key)
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	for name, csr := range map[string][]byte{
		"garbage":         []byte("certificate, please"),
		"empty":           nil,
		"long":            append(good[:len(good):len(good)], request(x509.CertificateRequest{}, ec)...),
		"huge":            append(good[:len(good):len(good)], make([]byte, maxCSR)...),
		"forged":          forged,
		"another key":     request(x509.CertificateRequest{Subject: own}, ec),
		"another name":    request(x509.CertificateRequest{Subject: pkix.Name{CommonName: strings.Repeat("0", 32)}}, key),
		"more names":      request(x509.CertificateRequest{Subject: own, DNSNames: []string{"localhost"}}, key),
		"an organisation": request(x509.CertificateRequest{Subject: pkix.Name{CommonName: own.CommonName, Organization: []string{"x"}}}, key),
	} {
		if _, _, err := ca.SignCSR(csr); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, host, err := ca.SignCSR(good); err != nil || host != own.CommonName {
		t.Errorf("a good one: %v", err)
	}
}

// TestStrangeCertificates: the authority's signature alone does not make a host. Every member has its key, and one of
// them may be up to something.
func TestStrangeCertificates(t *testing.T) {
	id := mustInit(t, "one")
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, _ := x509.MarshalPKIXPublicKey(pub)
	own := hostID(spki)
	for name, change := range map[string]func(c *x509.Certificate){
		"another's URI":   func(c *x509.Certificate) { c.URIs = []*url.URL{clusterURI("one", id.HostID())} },
		"another's name":  func(c *x509.Certificate) { c.Subject.CommonName = id.HostID() },
		"another cluster": func(c *x509.Certificate) { c.URIs = []*url.URL{clusterURI("two", own)} },
		"no URI":          func(c *x509.Certificate) { c.URIs = nil },
		"two URIs":        func(c *x509.Certificate) { c.URIs = append(c.URIs, clusterURI("one", id.HostID())) },
		"odd URI":         func(c *x509.Certificate) { c.URIs[0].RawQuery = "x" },
		"no host":         func(c *x509.Certificate) { c.URIs = []*url.URL{clusterURI("one", "")} },
		"an authority":    func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign },
		"":                func(c *x509.Certificate) {},
	} {
		template := &x509.Certificate{
			Subject:               pkix.Name{CommonName: own},
			URIs:                  []*url.URL{clusterURI("one", own)},
			NotAfter:              time.Now().Add(time.Hour),
			BasicConstraintsValid: true,
		}
		change(template)
		der, err := sign(template, id.CA().cert, pub, id.CA().key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		forger := &Identity{cluster: "one", key: key}
		forger.trust.Store(id.trust.Load())
		forger.use(leaf)
		got, _ := handshake(t, id.ServerConfig(nil), forger.ClientConfig("", nil))
		if good := name == ""; good != (got == nil) || !good && !errors.Is(got, ErrBadCertificate) && !errors.Is(got, ErrOtherCluster) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestClusterIDs(t *testing.T) {
	for _, bad := range []string{"", "-a", "a-", "A", "a.b", "a/b", "ä", strings.Repeat("a", 64)} {
		if _, err := NewCA(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := NewCA(strings.Repeat("a", 63)); err != nil {
		t.Error(err)
	}
}

// TestStandardClients: what curl and Prometheus do, who check a name, must work with the host id as the name.
func TestStandardClients(t *testing.T) {
	a := mustInit(t, "one")
	b := join(t, a)
	roots := x509.NewCertPool()
	roots.AddCert(a.CA().cert)
	config := &tls.Config{
		RootCAs: roots, ServerName: a.HostID(), MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{*b.cert.Load()},
	}
	if s, c := handshake(t, a.ServerConfig(nil), config); s != nil || c != nil {
		t.Errorf("server: %v, client: %v", s, c)
	}
}

// TestClocks: a certificate is good at hosts whose clocks are weeks behind that of the one who signed; one that a clock
// made that was years ahead is made anew once the clock is right.
func TestClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := mustInit(t, "one")
		shown := tls.ConnectionState{PeerCertificates: []*x509.Certificate{a.cert.Load().Leaf}}
		now := time.Now()
		for _, at := range []time.Time{now, now.Add(-backdated + time.Hour), now.Add(HostLife - time.Hour)} {
			if err := CheckTime(shown, at); err != nil {
				t.Errorf("at %v: %v", at, err)
			}
		}
		for _, at := range []time.Time{now.Add(-backdated - time.Hour), now.Add(HostLife + time.Hour)} {
			if err := CheckTime(shown, at); !errors.Is(err, ErrExpired) {
				t.Errorf("at %v: %v", at, err)
			}
		}
		leaf := *a.cert.Load().Leaf
		leaf.NotBefore, leaf.NotAfter = leaf.NotBefore.Add(550*24*time.Hour), leaf.NotAfter.Add(550*24*time.Hour)
		if a.NeedsRenewal() {
			t.Error("a fresh certificate is to be renewed")
		}
		if a.use(&leaf); !a.NeedsRenewal() {
			t.Error("a certificate of the future is to stay")
		}
	})
}

// TestNoCertificateIsOlderThanItsAuthority: release 0.2.0, to which hosts may go back, takes such a one for damage.
func TestNoCertificateIsOlderThanItsAuthority(t *testing.T) {
	a := mustInit(t, "one")
	begun := time.Now().Add(-time.Hour).Truncate(time.Second).UTC()
	template := *a.CA().cert
	template.NotBefore = begun
	der, err := sign(&template, &template, template.PublicKey.(ed25519.PublicKey), a.CA().key)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Trust(der, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Renew(); err != nil {
		t.Fatal(err)
	}
	if from := a.cert.Load().Leaf.NotBefore; !from.Equal(begun) {
		t.Errorf("it is good from %s, its authority from %s", from, begun)
	}
	if a.NeedsRenewal() {
		t.Error("it is to be renewed at once")
	}
}
