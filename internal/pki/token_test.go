package pki

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func testToken(t testing.TB) Token {
	ca, err := NewCA("one")
	if err != nil {
		t.Fatal(err)
	}
	return newToken(t, ca)
}

// newToken makes a token by the authority's own key.
func newToken(t testing.TB, ca *CA) Token {
	t.Helper()
	token, err := ca.NewToken(time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := testToken(t)
		text := token.Encode()
		got, err := ParseToken("\n " + text + "\n")
		if err != nil || got != token {
			t.Fatalf("parse: %v", err)
		}
		if !token.Matches(got.Hash()) {
			t.Error("a token does not match its hash")
		}
		other := got
		other.Secret[31]++
		if other.Matches(token.Hash()) || other.Hash() == token.Hash() {
			t.Error("another secret matches")
		}
		ca, err := NewCA("one")
		if err != nil {
			t.Fatal(err)
		}
		made := newToken(t, ca)
		later := made
		later.Expires = later.Expires.Add(time.Hour)
		if err := ca.Made(made, nil); err != nil {
			t.Errorf("a token of this cluster: %v", err)
		}
		for what, bad := range map[string]Token{"of another cluster": token, "whose end was moved": later} {
			if err := ca.Made(bad, nil); !errors.Is(err, ErrBadToken) {
				t.Errorf("a token %s: %v", what, err)
			}
		}
		for _, said := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s", token, token, token, token)} {
			if strings.Contains(said, text[30:60]) || strings.Contains(said, fmt.Sprint(token.Secret[:])) {
				t.Errorf("the secret is told: %s", said)
			}
		}
		time.Sleep(time.Hour + time.Second)
		got, err = ParseToken(text)
		if !errors.Is(err, ErrTokenExpired) || !errors.Is(err, ErrBadToken) || got.ID != token.ID {
			t.Errorf("an expired one: %v", err)
		}
	})
}

func TestBadTokens(t *testing.T) {
	text := testToken(t).Encode()
	body := strings.TrimPrefix(text, tokenPrefix)
	edit := func(at int, c byte) string { return text[:at] + string(c) + text[at+1:] }
	raw, _ := base64.RawURLEncoding.DecodeString(body)
	reseal := func(change func(p []byte)) string {
		p := append([]byte(nil), raw...)
		change(p)
		sum := sha256.Sum256(p[:tokenBody])
		copy(p[tokenBody:], sum[:])
		return tokenPrefix + base64.RawURLEncoding.EncodeToString(p)
	}
	other := byte('A')
	if text[60] == other {
		other = 'B'
	}
	for name, test := range map[string]struct{ text, says string }{
		"empty":       {"", "does not start"},
		"garbage":     {"hello", "does not start"},
		"prefix only": {tokenPrefix, "truncated: 5 of 129"},
		"truncated":   {text[:len(text)-1], "truncated: 128 of 129"},
		"half":        {text[:60], "truncated: 60"},
		"too long":    {text + "A", "too long"},
		"doubled":     {text + text, "too long"},
		"mistyped":    {edit(60, other), "checksum"},
		"characters":  {edit(60, '+'), "characters"},
		"line break":  {edit(60, '\n'), "characters"},
		"case":        {strings.ToUpper(text), "does not start"},
		"version":     {reseal(func(p []byte) { p[0] = 2 }), "version 2"},
		"year 10000":  {reseal(func(p []byte) { p[tokenBody-8] = 1 }), "9999"},
		"negative":    {reseal(func(p []byte) { p[tokenBody-8] = 255 }), "9999"},
	} {
		if _, err := ParseToken(test.text); !errors.Is(err, ErrBadToken) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range body { // every single mistake is found
		for _, c := range []byte("Az0_") {
			if body[i] == c {
				continue
			}
			if _, err := ParseToken(edit(len(tokenPrefix)+i, c)); !errors.Is(err, ErrBadToken) {
				t.Errorf("character %d may be changed: %v", i, err)
			}
		}
	}
}

// FuzzToken: what is taken for a token has exactly one text.
func FuzzToken(f *testing.F) {
	token := Token{ID: [16]byte{1}, Secret: [32]byte{2}, Pin: [32]byte{3}, Expires: time.Unix(4e9, 0)}
	f.Add(token.Encode())
	token.Expires = time.Unix(0, 0)
	f.Add(token.Encode())
	f.Add(tokenPrefix + strings.Repeat("A", tokenText))
	f.Add("vst1.")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil && !errors.Is(err, ErrTokenExpired) {
			if !errors.Is(err, ErrBadToken) || token != (Token{}) {
				t.Errorf("%v, %v", token, err)
			}
			return
		}
		if got := token.Encode(); got != strings.TrimSpace(s) {
			t.Errorf("%q became %q", s, got)
		}
	})
}
