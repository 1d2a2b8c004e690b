package placement

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// TestStamp: every command that has a time gets the leader's, but for those whose time says something else.
func TestStamp(t *testing.T) {
	const now = 1000
	for _, c := range sample() {
		encoded, err := EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		c, err := DecodeCommand(encoded)
		if err != nil {
			t.Fatal(err)
		}
		has := strings.Contains(string(encoded), `"now":`) || c.Publish != nil
		if stamped := c.Stamp(now, Newest); stamped != has {
			t.Errorf("%s: stamped %v, and it has a time: %v", encoded, stamped, has)
		}
		if has && *c.time() != now {
			t.Errorf("%s: stamped with %d", encoded, *c.time())
		}
		if again, err := DecodeCommand(encoded); err != nil || !has && !reflect.DeepEqual(again, c) {
			t.Errorf("%s: %v", encoded, err)
		}
	}
	old := publishing("a", 1, 3, 2, 1)
	if at := old.Publish.At; old.Stamp(now, 3) || old.Publish.At != at {
		t.Error("below version 4 a publish is known by its time")
	}
}

// TestLatest is the latest time in the catalogue, also of one that is restored.
func TestLatest(t *testing.T) {
	w := &world{State: New()}
	w.do(t, Command{InitCluster: &InitCluster{ID: "c", Host: hostNumbered(1), Now: 5}})
	w.do(t, Command{CreateToken: &CreateToken{ID: tokenID(1), Hash: strings.Repeat("0", 64), Expires: 90, Now: 7}})
	if w.Latest() != 7 {
		t.Errorf("%d, want 7", w.Latest())
	}
	w.do(t, making(1, ActiveAuthority)) // at 1
	if w.Latest() != 7 {
		t.Errorf("%d, want 7: it went back", w.Latest())
	}
	w.do(t, Command{AddHost: &AddHost{Host: hostNumbered(2), TokenID: tokenID(1), Now: 9}})
	var snapshot bytes.Buffer
	if _, err := w.Freeze().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	if again, err := Restore(&snapshot); err != nil || again.Latest() != 9 {
		t.Errorf("restored: %v", err)
	}
}

// TestPublishedAgainWithinASecond: a name gets back a content that it had, although no clock tells the two apart.
func TestPublishedAgainWithinASecond(t *testing.T) {
	w := &world{State: New()}
	host := hostNumbered(1)
	host.Version = Newest
	w.do(t, Command{InitCluster: &InitCluster{ID: "c", Host: host, Now: 5}})
	for i, n := range []int{1, 2, 1} {
		c := publishing("a", n, 3, 1, 1)
		c.Publish.At = 9
		w.do(t, c)
		if f, _ := w.File("a"); len(f.Versions) != i+1 || f.Newest().ID != digest(n) {
			t.Errorf("after publication %d there are %d versions", i+1, len(f.Versions))
		}
	}
}
