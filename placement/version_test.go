package placement

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/reason"
)

func TestVersionRisesWhenAllCan(t *testing.T) {
	w := &world{State: New()}
	old, able := hostNumbered(2), hostNumbered(3)
	able.Version, able.Program = 2, "v0.2.0"
	w.do(t, Command{InitCluster: &InitCluster{ID: "c", Host: hostNumbered(1), Now: 1}})
	for n, h := range []Host{old, able} {
		w.do(t, Command{CreateToken: &CreateToken{ID: tokenID(n), Hash: strings.Repeat("0", 64), Expires: 9, Now: 1}})
		w.do(t, Command{AddHost: &AddHost{Host: h, TokenID: tokenID(n), Now: 1}})
	}
	raise := Command{RaiseVersion: &RaiseVersion{To: 2}}
	if w.Version() != 1 || w.LeastVersion() != 1 {
		t.Fatalf("version %d, at least %d, want 1 and 1", w.Version(), w.LeastVersion())
	}
	w.refuse(t, raise, ErrMixedVersions)
	w.do(t, Command{UpdateHost: &UpdateHost{ID: hostID(1), Version: 2, Program: "v0.2.0"}})
	w.do(t, Command{UpdateHost: &UpdateHost{ID: hostID(2), Version: 2, Program: "v0.2.0"}})
	w.do(t, Command{UpdateHost: &UpdateHost{ID: hostID(2), Version: 1}}) // back, as long as it has not risen
	w.refuse(t, raise, ErrMixedVersions)
	w.do(t, Command{UpdateHost: &UpdateHost{ID: hostID(2), Version: 2, Program: "v0.2.0"}})
	w.do(t, raise)
	w.again(t, raise)
	if w.Version() != 2 || w.LeastVersion() != 2 {
		t.Fatalf("version %d, at least %d, want 2 and 2", w.Version(), w.LeastVersion())
	}
	w.refuse(t, Command{UpdateHost: &UpdateHost{ID: hostID(2), Version: 1}}, ErrTooOld)
	w.do(t, Command{CreateToken: &CreateToken{ID: tokenID(7), Hash: strings.Repeat("0", 64), Expires: 9, Now: 1}})
	w.refuse(t, Command{AddHost: &AddHost{Host: hostNumbered(4), TokenID: tokenID(7), Now: 1}}, ErrTooOld)

	var snapshot bytes.Buffer
	if _, err := w.Freeze().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	if again, err := Restore(&snapshot); err != nil || again.Version() != 2 {
		t.Errorf("restored: %v", err)
	}
}

// TestNewerIsRefusedInWords: what a later release wrote is not taken for damage.
func TestNewerIsRefusedInWords(t *testing.T) {
	for _, text := range []string{
		fmt.Sprintf(`{"v":%d,"sing":{"song":"x"}}`, Newest+1),
		fmt.Sprintf(`{"v":%d,"remove_host":{"id":"a","gently":true}}`, Newest+1),
	} {
		_, err := DecodeCommand([]byte(text))
		if !errors.Is(err, ErrNewer) || reason.Of(err) != reason.TooOld {
			t.Errorf("%s: %v", text, err)
		}
	}
	if c, err := DecodeCommand([]byte(`{"remove_host":{"id":"a","why":"no reason"}}`)); err != nil || c.RemoveHost.ID != "a" {
		t.Errorf("a field that needs no newer version: %+v, %v", c, err)
	}
	head := fmt.Sprintf(`{"catalogue":{"version":5,"applied":9,"removed":0,"moved":0,"cluster":"c","cluster_version":%d}}`, Newest+1)
	for _, line := range []string{head, fmt.Sprintf(`{"catalogue":{"version":%d}}`, snapshotVersion+1)} {
		if _, err := Restore(bytes.NewReader(repack([]string{line}))); !errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v", line, err)
		}
	}
	raise := Command{RaiseVersion: &RaiseVersion{To: Newest + 1}}
	if _, err := EncodeCommand(raise); !errors.Is(err, ErrNewer) {
		t.Errorf("raise beyond what this program can: %v", err)
	}
}

// TestNeeds: a command needs what is set in it.
func TestNeeds(t *testing.T) {
	type part struct {
		Plain int
		New   string `since:"4"`
	}
	type command struct {
		Old   *part
		Fresh *part `since:"3"`
		Parts []part
		Other []int
	}
	found := tagsIn(reflect.TypeFor[command]())
	for _, tt := range []struct {
		c    command
		want int
	}{
		{command{}, 0},
		{command{Old: &part{Plain: 1}, Other: []int{1}}, 0},
		{command{Fresh: &part{}}, 3},
		{command{Old: &part{New: "x"}}, 4},
		{command{Fresh: &part{New: "x"}}, 4},
		{command{Parts: []part{{}, {New: "x"}}}, 4},
	} {
		if got := found.since(reflect.ValueOf(tt.c)); got != tt.want {
			t.Errorf("%+v needs %d, want %d", tt.c, got, tt.want)
		}
	}
}

var update = flag.Bool("update", false, "note what the newest cluster version has in testdata/commands.txt")

// TestNoFieldIsNewWithoutAVersion: a field that older hosts do not know would leave them with another catalogue. So
// each field of a command either is as old as the listing, or says since which cluster version it is there. Lines are
// added with a release that raises Newest, and never changed or removed.
func TestNoFieldIsNewWithoutAVersion(t *testing.T) {
	const listing = "testdata/commands.txt"
	text, err := os.ReadFile(listing)
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Split(strings.TrimSpace(string(text)), "\n")
	now := fieldsOf(reflect.TypeFor[Command](), "", 0, nil)
	for _, line := range old {
		if !slices.Contains(now, line) {
			t.Errorf("commands have no more %s: the logs of clusters do", line)
		}
	}
	for _, line := range now {
		if slices.Contains(old, line) {
			continue
		}
		since, _ := strconv.Atoi(line[strings.LastIndex(line, " ")+1:])
		if !*update && (since <= untold || since > Newest) {
			t.Errorf("%s is new: give it a tag since of a version up to Newest, and set it only where State.Version allows it", line)
		}
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(listing, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// fieldsOf lists the fields of a type and below: path, kind and since, 0 if it is not said. Fields are as new as what they
// are in.
func fieldsOf(t reflect.Type, path string, since int, within []reflect.Type) (lines []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || slices.Contains(within, t) || reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ UnmarshalText([]byte) error }]()) {
		return nil
	}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			lines = append(lines, fieldsOf(f.Type, path, since, append(within, t))...)
			continue
		}
		own, _ := strconv.Atoi(f.Tag.Get("since"))
		own = max(own, since)
		lines = append(lines, fmt.Sprintf("%s.%s %s %d", path, name, f.Type, own))
		lines = append(lines, fieldsOf(f.Type, path+"."+name, own, append(within, t))...)
	}
	return lines
}

// TestTokensOfARemovedHostDie: whoever was removed may have put some aside.
func TestTokensOfARemovedHostDie(t *testing.T) {
	w := &world{State: New()}
	w.do(t, Command{InitCluster: &InitCluster{ID: "c", Host: hostNumbered(1), Now: 1}})
	make := func(n int, by HostID) {
		w.do(t, Command{CreateToken: &CreateToken{ID: tokenID(n), Hash: strings.Repeat("0", 64), Expires: 9, Now: 1, By: by}})
	}
	make(1, hostID(1))
	w.do(t, Command{AddHost: &AddHost{Host: hostNumbered(2), TokenID: tokenID(1), Now: 1}})
	make(2, hostID(2))
	make(3, hostID(1))
	w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(2)}})
	w.refuse(t, Command{AddHost: &AddHost{Host: hostNumbered(3), TokenID: tokenID(2), Now: 1}}, ErrTokenUnknown)
	w.do(t, Command{AddHost: &AddHost{Host: hostNumbered(3), TokenID: tokenID(3), Now: 1}})
}
