package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

const (
	// idMark separates a name from a version of it.
	idMark = "@b3:"
	// minDigits is the shortest part of a digest that names a version: shorter ones are soon ambiguous.
	minDigits = 8
	maxDigits = 64
)

// ref is a file as an operator names it: NAME for its newest version, or NAME@b3:DIGITS.
type ref struct {
	name   string
	digits string // first hex digits of a version's digest; empty means the newest
}

// checkText refuses what the API cannot carry: its texts are UTF-8.
func checkText(s string) error {
	if !utf8.ValidString(s) {
		return reason.Wrap(reason.InvalidName, fmt.Sprintf("%q", s), errors.New("it is not valid UTF-8"))
	}
	return nil
}

func parseRef(s string) (ref, error) {
	if err := checkText(s); err != nil {
		return ref{}, err
	}
	i := strings.LastIndex(s, idMark)
	if i < 0 {
		return ref{name: s}, nil
	}
	r := ref{name: s[:i], digits: strings.ToLower(s[i+len(idMark):])}
	if n := len(r.digits); n < minDigits || n > maxDigits || strings.Trim(r.digits, "0123456789abcdef") != "" {
		return ref{}, usageError("%s: a version is %d to %d hex digits behind %s", s, minDigits, maxDigits, idMark)
	}
	return r, nil
}

// id returns the full digest of the version, asking the host where only its first digits are known; it is
// empty for the newest version.
func (r ref) id(ctx context.Context, host *api.Client) (string, error) {
	switch len(r.digits) {
	case 0:
		return "", nil
	case maxDigits:
		return idMark[1:] + r.digits, nil
	}
	resp, err := host.Control.Show(ctx, &v1.ShowRequest{Name: r.name})
	if err != nil {
		return "", err
	}
	found := ""
	for _, v := range resp.GetVersions() {
		if !strings.HasPrefix(v.GetId(), idMark[1:]+r.digits) {
			continue
		}
		if found != "" {
			return "", reason.Wrap(reason.Usage, r.String()+" names several versions", nil).
				WithHint("give more digits; see: virtswarm show " + quote(r.name))
		}
		found = v.GetId()
	}
	if found == "" {
		return "", reason.Wrap(reason.NotFound, r.String(), nil).WithHint("list the versions with: virtswarm show " + quote(r.name))
	}
	return found, nil
}

func (r ref) String() string {
	if r.digits == "" {
		return r.name
	}
	return r.name + idMark + r.digits
}

// quote makes a word safe to paste into a shell.
func quote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// resolve is parseRef and id in one: the name and digest that a request carries.
func (c *cli) resolve(ctx context.Context, arg string) (name, id string, err error) {
	r, err := parseRef(arg)
	if err != nil {
		return "", "", err
	}
	id, err = r.id(ctx, c.host())
	return r.name, id, err
}
