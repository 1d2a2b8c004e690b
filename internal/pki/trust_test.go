package pki

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// joinUnsigning makes a further host that does not get the key of the authority.
func joinUnsigning(t *testing.T, id *Identity) *Identity {
	t.Helper()
	r, err := Prepare(nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := id.CA().SignCSR(r.CSR())
	if err != nil {
		t.Fatal(err)
	}
	member, err := r.Accept(id.CA().Pin(), cert, id.CA().Certificate(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return member
}

// renewAt has a host that does not sign renewed by one that does.
func renewAt(t *testing.T, signer, id *Identity) {
	t.Helper()
	csr, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	cert, host, err := signer.CA().SignCSR(csr)
	if err != nil || host != id.HostID() {
		t.Fatalf("sign for %s: %v", host, err)
	}
	if err := id.Use(cert); err != nil {
		t.Fatal(err)
	}
}

func reload(t *testing.T, id *Identity) *Identity {
	t.Helper()
	again, err := Load(nil, id.in.dir)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func mustTrust(t *testing.T, active *CA, others []*CA, ids ...*Identity) {
	t.Helper()
	var ders [][]byte
	for _, ca := range others {
		ders = append(ders, ca.Certificate())
	}
	for _, id := range ids {
		if err := id.Trust(active.Certificate(), ders); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHostWithoutTheKey: it is a member like any other, signs nothing, and is renewed by a host that signs.
func TestHostWithoutTheKey(t *testing.T) {
	a := mustInit(t, "one")
	b := joinUnsigning(t, a)
	if b = reload(t, b); b.CA().Signs() || b.CA().Key() != nil {
		t.Error("it has the key")
	}
	if err := b.Renew(); !errors.Is(err, ErrNoKey) {
		t.Errorf("it renews itself: %v", err)
	}
	if _, err := b.CA().NewToken(1, nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("it makes a token: %v", err)
	}
	key := make([]byte, TokenKeySize) // of the catalogue
	key[7] = 7
	token, err := b.CA().NewToken(1, key)
	if err != nil || a.CA().Made(token, key) != nil || b.CA().Made(token, key) != nil {
		t.Errorf("a token by the catalogue's key: %v", err)
	}
	if err := a.CA().Made(token, nil); !errors.Is(err, ErrBadToken) {
		t.Errorf("a token by another key: %v", err)
	}
	csr, _ := b.CSR()
	if host, err := HostOfCSR(csr); err != nil || host != b.HostID() {
		t.Errorf("its request is that of %s: %v", host, err)
	}
	if err := b.Use(a.cert.Load().Leaf.Raw); err == nil {
		t.Error("it uses the certificate of another host")
	}
	renewAt(t, a, b)
	if s, c := handshake(t, a.ServerConfig(nil), reload(t, b).ClientConfig(a.HostID(), nil)); s != nil || c != nil {
		t.Errorf("server: %v, client: %v", s, c)
	}
	if err := a.ForgetKeys(); err != nil || a.CA().Signs() || reload(t, a).CA().Signs() {
		t.Errorf("it has forgotten nothing: %v", err)
	}
	other := mustInit(t, "one").CA()
	if err := a.HoldKey(a.CA().Pin(), other.Key()); !errors.Is(err, ErrPinMismatch) {
		t.Errorf("it holds the key of another: %v", err)
	}
}

// TestAuthorityIsReplaced goes through a replacement, and starts the hosts anew after each step.
func TestAuthorityIsReplaced(t *testing.T) {
	a := mustInit(t, "one")
	b := joinUnsigning(t, a)
	away := joinUnsigning(t, a) // hears nothing of it
	old := a.CA()
	next, err := NewCA("one")
	if err != nil {
		t.Fatal(err)
	}
	meet := func(step string) {
		t.Helper()
		for _, pair := range [][2]*Identity{{a, b}, {b, a}} {
			if s, c := handshake(t, pair[0].ServerConfig(nil), pair[1].ClientConfig(pair[0].HostID(), nil)); s != nil || c != nil {
				t.Errorf("%s: server: %v, client: %v", step, s, c)
			}
		}
		// The host that is away is known by its key, and knows the others by theirs.
		known := func(string, bool) error { return nil }
		for _, pair := range [][2]*Identity{{a, away}, {away, a}} {
			if s, c := handshake(t, pair[0].ServerConfig(known), pair[1].ClientConfig(pair[0].HostID(), known)); s != nil || c != nil {
				t.Errorf("%s: with one that is away: server: %v, client: %v", step, s, c)
			}
		}
	}
	if err := a.HoldKey(next.Pin(), next.Key()); err != nil {
		t.Fatal(err)
	}
	mustTrust(t, old, []*CA{next}, a, b)
	if a = reload(t, a); a.CA().Pin() != old.Pin() || !a.CA().Signs() || a.NeedsRenewal() {
		t.Error("the next authority signs before its time")
	}
	if key, err := a.HeldKey(next.Pin()); err != nil || key == nil {
		t.Errorf("the next key is not held: %v", err)
	}
	meet("before")

	mustTrust(t, next, []*CA{old}, a)
	for _, id := range []*Identity{a, reload(t, a)} {
		if id.CA().Pin() != next.Pin() || !id.CA().Signs() || !id.NeedsRenewal() {
			t.Error("the next authority does not sign")
		}
	}
	meet("one host knows that the next one signs")
	if err := a.Renew(); err != nil || a.NeedsRenewal() {
		t.Errorf("renew: %v", err)
	}
	if by, ok := a.SignedBy(); !ok || by != next.Pin() {
		t.Error("the old authority has signed a new certificate")
	}
	meet("one certificate is new")
	mustTrust(t, next, []*CA{old}, b)
	if !b.NeedsRenewal() {
		t.Error("a certificate of the old authority is to stay")
	}
	renewAt(t, a, b)
	mustTrust(t, next, nil, a, b)
	a, b = reload(t, a), reload(t, b)
	meet("the old one is gone")
	if s, _ := handshake(t, a.ServerConfig(nil), trusting(away)); !errors.Is(s, ErrOtherCluster) {
		t.Errorf("a certificate of the old authority gets a stranger in: %v", s)
	}
	mustTrust(t, next, nil, away)
	if away = reload(t, away); !away.NeedsRenewal() {
		t.Error("a host that comes back keeps a certificate that nobody trusts")
	}
	renewAt(t, a, away)
	other := mustInit(t, "one").CA()
	for _, id := range []*Identity{a, b, away} {
		if !id.Knew(old.Pin()) || !id.Knew(next.Pin()) || id.Knew(other.Pin()) {
			t.Error("it has forgotten of which authorities old tokens are")
		}
	}
	if key, err := a.HeldKey(old.Pin()); err != nil || key != nil {
		t.Errorf("the old key is kept: %v", err)
	}
}

// TestReplacementSurvivesACrash: between writing the certificates and putting the keys in their places.
func TestReplacementSurvivesACrash(t *testing.T) {
	a := mustInit(t, "one")
	old := a.CA()
	next, err := NewCA("one")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.HoldKey(next.Pin(), next.Key()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(a.in.dir, caKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	mustTrust(t, next, []*CA{old}, a)
	key, err := os.ReadFile(filepath.Join(a.in.dir, caKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string][]byte{caKeyFile: before, nextKeyFile: key} {
		if err := os.WriteFile(filepath.Join(a.in.dir, name), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a = reload(t, a)
	if a.CA().Pin() != next.Pin() || !a.CA().Signs() {
		t.Error("the next authority does not sign")
	}
	mustTrust(t, next, []*CA{old}, a)
	if _, err := os.Stat(filepath.Join(a.in.dir, nextKeyFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key stayed where the next one goes: %v", err)
	}
	if got := a.TrustedCertificates(); len(got) != 2 || !bytes.Equal(got[0], next.Certificate()) || !bytes.Equal(got[1], old.Certificate()) {
		t.Errorf("trusts %x", got)
	}
	if pin, err := PinOf(next.Certificate()); err != nil || pin != next.Pin() || pin == [sha256.Size]byte{} {
		t.Errorf("pin %x: %v", pin, err)
	}
}
