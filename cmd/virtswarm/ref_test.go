package main

import (
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func TestParseRef(t *testing.T) {
	full := strings.Repeat("0123456789abcdef", 4)
	tests := []struct {
		in           string
		name, digits string
		bad          bool
	}{
		{in: "images/x", name: "images/x"},
		{in: "images/x@b3:01234567", name: "images/x", digits: "01234567"},
		{in: "images/x@b3:0123ABCD", name: "images/x", digits: "0123abcd"},
		{in: "images/x@b3:" + full, name: "images/x", digits: full},
		{in: "user@host", name: "user@host"},
		{in: "a@b3", name: "a@b3"},
		{in: "a@b3:01234567@b3:89abcdef", name: "a@b3:01234567", digits: "89abcdef"},
		{in: "x@b3:", bad: true},
		{in: "x@b3:0123456", bad: true},
		{in: "x@b3:0123456g", bad: true},
		{in: "x@b3:" + full + "0", bad: true},
		{in: "x@b3:01234567 ", bad: true},
	}
	for _, tt := range tests {
		r, err := parseRef(tt.in)
		switch {
		case tt.bad && api.ReasonOf(err) != reason.Usage:
			t.Errorf("%q: got %v, %v, want a usage error", tt.in, r, err)
		case !tt.bad && (err != nil || r.name != tt.name || r.digits != tt.digits):
			t.Errorf("%q: got %+v, %v, want %q and %q", tt.in, r, err, tt.name, tt.digits)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"images/x.raw": "images/x.raw",
		"two words":    "'two words'",
		"it's":         `'it'\''s'`,
		"":             "''",
		"$(reboot)":    "'$(reboot)'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}
