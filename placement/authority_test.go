package placement

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func authorityID(n int) string { return fmt.Sprintf("%064x", n) }

// making enters an authority that the catalogue does not know.
func making(n int, to AuthorityState) Command {
	return Command{SetAuthority: &SetAuthority{
		ID: authorityID(n), Cert: fmt.Appendf(nil, "certificate %d", n), TokenKey: bytes.Repeat([]byte{byte(n)}, 32), To: to, By: hostID(1), Now: int64(n),
	}}
}

func moving(n int, to AuthorityState) Command {
	return Command{SetAuthority: &SetAuthority{ID: authorityID(n), To: to, Now: 100}}
}

func (w *world) authorities() (all string) {
	for _, a := range w.Authorities() {
		all += fmt.Sprintf("%s %s, ", a.ID[63:], a.State)
	}
	return all
}

func TestAuthorityIsReplaced(t *testing.T) {
	w := &world{State: New()}
	w.do(t, Command{InitCluster: &InitCluster{ID: "c", Host: hostNumbered(1), Now: 1}})
	w.refuse(t, making(1, NextAuthority), ErrAuthority)
	w.refuse(t, moving(1, ActiveAuthority), ErrAuthority)
	w.do(t, making(1, ActiveAuthority))
	w.again(t, making(1, ActiveAuthority))
	w.refuse(t, making(2, ActiveAuthority), ErrAuthority)
	w.refuse(t, moving(1, GoneAuthority), ErrAuthority)
	w.refuse(t, moving(1, NextAuthority), ErrAuthority)
	w.do(t, making(2, NextAuthority))
	w.again(t, making(2, NextAuthority))
	w.refuse(t, making(3, NextAuthority), ErrAuthority)
	w.do(t, moving(2, ActiveAuthority))
	w.again(t, moving(2, ActiveAuthority))
	w.refuse(t, moving(1, ActiveAuthority), ErrAuthority)
	if got := w.authorities(); got != "1 former, 2 active, " {
		t.Fatal(got)
	}
	if a, ok := w.Signing(); !ok || a.ID != authorityID(2) || a.TokenKey[0] != 2 || a.Since != 100 {
		t.Errorf("%+v signs", a)
	}
	var snapshot bytes.Buffer
	if _, err := w.Freeze().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(&snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if got := (&world{State: again}).authorities(); got != "1 former, 2 active, " {
		t.Errorf("restored: %s", got)
	}
	w.do(t, moving(1, GoneAuthority))
	w.again(t, moving(1, GoneAuthority))
	w.do(t, making(4, NextAuthority))
	w.do(t, moving(4, GoneAuthority)) // a replacement is given up
	if got := w.authorities(); got != "2 active, " {
		t.Error(got)
	}
	for _, bad := range []*SetAuthority{
		{ID: "short", To: GoneAuthority},
		{ID: authorityID(9), To: "unheard"},
		{ID: authorityID(9), To: FormerAuthority},
		{ID: authorityID(9), Cert: []byte("x"), To: NextAuthority},
		{ID: authorityID(9), TokenKey: make([]byte, 32), To: NextAuthority},
		{ID: authorityID(9), Cert: make([]byte, 5000), TokenKey: make([]byte, 32), To: NextAuthority},
	} {
		w.refuse(t, Command{SetAuthority: bad}, ErrBadCommand)
	}
}

// TestOneAuthoritySigns whatever is done to authorities, and every snapshot can be restored.
func TestOneAuthoritySigns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{State: New()}
		w.do(t, Command{InitCluster: &InitCluster{ID: "c", Host: hostNumbered(1), Now: 1}})
		w.do(t, making(1, ActiveAuthority))
		states := rapid.SampledFrom([]AuthorityState{NextAuthority, ActiveAuthority, GoneAuthority})
		for range rapid.IntRange(1, 40).Draw(t, "commands") {
			c := moving(rapid.IntRange(1, 6).Draw(t, "authority"), states.Draw(t, "to"))
			if rapid.Bool().Draw(t, "with its certificate") {
				c = making(rapid.IntRange(1, 6).Draw(t, "authority"), c.SetAuthority.To)
			}
			if _, err := w.Apply(w.Applied()+1, c); err != nil && !errors.Is(err, ErrAuthority) {
				t.Fatal(err)
			}
			if err := validateAuthorities(w.Authorities()); err != nil {
				t.Fatal(err)
			}
		}
		var snapshot bytes.Buffer
		if _, err := w.Freeze().WriteTo(&snapshot); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(&snapshot); err != nil {
			t.Fatal(err)
		}
	})
}
