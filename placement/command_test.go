package placement

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

func TestNames(t *testing.T) {
	for _, name := range []string{
		"a", "images/debian-12.raw", "with space/and ümlaut 漢字", "..a", "a..", "...", ".hidden", "a\u00a0b", strings.Repeat("x", MaxName),
	} {
		if err := ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, why := range map[string]string{
		"":                             "is empty",
		"/a":                           "empty path element",
		"a/":                           "empty path element",
		"a//b":                         "empty path element",
		"/":                            "empty path element",
		".":                            `"."`,
		"a/./b":                        `"."`,
		"..":                           `".."`,
		"../etc":                       `".."`,
		"a/..":                         `".."`,
		"a\nb":                         "U+000A at byte 1",
		"a\x00":                        "U+0000",
		"a\x7f":                        "U+007F",
		"a\u0085":                      "U+0085",
		"a\xff":                        "UTF-8",
		strings.Repeat("x", MaxName+1): "at most 512",
	} {
		if err := ValidateName(name); !errors.Is(err, ErrInvalidName) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want ErrInvalidName with %q", name, err, why)
		}
	}
}

func TestGuestPatterns(t *testing.T) {
	for _, p := range []string{"none", "all", "tag:web", "web-*", "web-[0-9]", "6f1c3a52-9f0b-4a53-8a3b-1b8b6f0a9a10"} {
		if err := ValidateGuests(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{"", "tag:", "tag:a b", "[", "a\nb", strings.Repeat("x", MaxGuests+1)} {
		if err := ValidateGuests(p); !errors.Is(err, ErrInvalidGuests) {
			t.Errorf("%q: %v, want ErrInvalidGuests", p, err)
		}
	}
}

func TestHostsAreValidated(t *testing.T) {
	for what, spoil := range map[string]func(*Host){
		"id":            func(h *Host) { h.ID = "ABC" },
		"no name":       func(h *Host) { h.Name = "" },
		"name":          func(h *Host) { h.Name = "a b" },
		"name as id":    func(h *Host) { h.Name = string(hostID(7)) },
		"long name":     func(h *Host) { h.Name = strings.Repeat("a", MaxHostName+1) },
		"no address":    func(h *Host) { h.Addr = "" },
		"no port":       func(h *Host) { h.Addr = "host" },
		"no host":       func(h *Host) { h.Addr = ":1" },
		"port 0":        func(h *Host) { h.Addr = "host:0" },
		"port":          func(h *Host) { h.Addr = "host:70000" },
		"bare IPv6":     func(h *Host) { h.Addr = "::1:7946" },
		"weight":        func(h *Host) { h.Weight = MaxWeight + 1 },
		"empty label":   func(h *Host) { h.Labels = map[string]string{"": "x"} },
		"control label": func(h *Host) { h.Labels = map[string]string{"a": "\n"} },
		"labels":        func(h *Host) { h.Labels = manyLabels(MaxLabels + 1) },
	} {
		h := hostNumbered(1)
		h.Addr = "[::1]:7946"
		if err := validateHost(h); err != nil {
			t.Fatal(err)
		}
		spoil(&h)
		if err := validateHost(h); !errors.Is(err, ErrInvalidHost) {
			t.Errorf("%s: %v, want ErrInvalidHost", what, err)
		}
	}
}

func manyLabels(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprint(i)] = "x"
	}
	return m
}

func TestPublishIsValidated(t *testing.T) {
	for what, c := range map[string]struct {
		spoil func(*Publish)
		want  error
	}{
		"name":       {func(p *Publish) { p.Name = ".." }, ErrInvalidName},
		"guests":     {func(p *Publish) { p.Guests = "tag:" }, ErrInvalidGuests},
		"digest":     {func(p *Publish) { p.ID = content.Digest{} }, ErrInvalidFile},
		"chunk size": {func(p *Publish) { p.ChunkSize = 100_000 }, ErrInvalidFile},
		"size":       {func(p *Publish) { p.Size = -1 }, ErrInvalidFile},
		"huge":       {func(p *Publish) { p.Size = 1 << 60 }, ErrInvalidFile},
		"data":       {func(p *Publish) { p.DataBytes = p.Size + 1 }, ErrInvalidFile},
		"shards":     {func(p *Publish) { p.Shards++ }, ErrInvalidFile},
		"replicas":   {func(p *Publish) { p.Replicas = MaxReplicas + 1 }, ErrInvalidFile},
	} {
		cmd := publishing("a", 1, 3, 2, 1)
		c.spoil(cmd.Publish)
		if err := cmd.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		if _, err := EncodeCommand(cmd); !errors.Is(err, c.want) {
			t.Errorf("%s: encoded all the same: %v", what, err)
		}
	}
}

// sample is a command of every kind.
func sample() []Command {
	shards, _ := ParseShardSet("0-3,7")
	labels := map[string]string{"rack": "r1"}
	return []Command{
		{InitCluster: &InitCluster{ID: "c1", Host: hostNumbered(1), Now: 5}},
		{AddHost: &AddHost{Host: hostNumbered(2), TokenID: tokenID(1), Now: 5}},
		{UpdateHost: &UpdateHost{ID: hostID(1), Addr: "h:1", Labels: labels}},
		{UpdateHost: &UpdateHost{ID: hostID(1), Labels: map[string]string{}}},
		{UpdateHost: &UpdateHost{ID: hostID(1), Version: 2, Program: "v0.2.0"}},
		{RaiseVersion: &RaiseVersion{To: 2}},
		{SetAuthority: &SetAuthority{ID: authorityID(1), Cert: []byte("cert"), TokenKey: make([]byte, 32), To: ActiveAuthority, By: hostID(1), Now: 5}},
		{SetAuthority: &SetAuthority{ID: authorityID(1), To: GoneAuthority, Now: 5}},
		{UpdateHost: &UpdateHost{ID: hostID(1), Authority: authorityID(1)}},
		{SetHostState: &SetHostState{ID: hostID(1), From: Alive, To: Down, Now: 5}},
		{RemoveHost: &RemoveHost{ID: hostID(1)}},
		{CreateToken: &CreateToken{ID: tokenID(1), Hash: strings.Repeat("ab", 32), Expires: 9, Now: 5}},
		publishing("images/a b", 1, 3, 2, 1),
		{Adopt: &Adopt{Publish: *publishing("images/a b", 1, 3, 2, 9).Publish, Rank: RankOlder}},
		{RemoveFile: &RemoveFile{Name: "a"}},
		{RemoveFile: &RemoveFile{Name: "a", ID: digest(1)}},
		{Distribute: &Distribute{Name: "a", All: true}},
		{Distribute: &Distribute{Name: "a", ID: digest(2), Hosts: []HostID{hostID(1)}}},
		{Unpin: &Unpin{Name: "a", All: true}},
		{Unpin: &Unpin{Name: "a", ID: digest(2), Hosts: []HostID{hostID(1)}}},
		{Report: &Report{Host: hostID(1), Holdings: []Holding{{digest(1), AllShards()}, {digest(2), shards}}, Dropped: []content.Digest{digest(3)}}},
	}
}

func TestCommandsSurviveTheLog(t *testing.T) {
	for _, c := range sample() {
		p, err := EncodeCommand(c)
		if err != nil {
			t.Fatalf("%s: %v", c.Kind(), err)
		}
		got, err := DecodeCommand(p)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("%s became %+v", p, got)
		}
	}
}

func TestUnreadableCommandsAreRefused(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `null`, `[]`, `{"publish":null}`, `{"remove_host":{"id":"a"},"remove_file":{"name":"b"}}`,
		`{"unheard_of":{}}`, `{"remove_host":{"id":"a"}} {}`,
		`{"report":{"host":"a","holdings":[{"id":"b3:00","shards":"all"}]}}`,
		`{"remove_host":{"id":"` + strings.Repeat("a", MaxCommand) + `"}}`,
	} {
		if _, err := DecodeCommand([]byte(text)); !errors.Is(err, ErrBadCommand) {
			t.Errorf("%.60s: %v, want ErrBadCommand", text, err)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range sample() {
		p, err := EncodeCommand(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	w := newWorld(f, 3)
	w.do(f, publishing("a", 1, 3, 2, 1))
	snapshot := lines(f, w.State)
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := DecodeCommand(p)
		if err != nil {
			return
		}
		// Whatever can be read can be applied, by two replicas alike.
		a, err := restoreLines(bytes.NewReader(snapshot))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := restoreLines(bytes.NewReader(snapshot))
		_, errA := a.Apply(1000, c)
		_, errB := b.Apply(1000, c)
		if fmt.Sprint(errA) != fmt.Sprint(errB) || !bytes.Equal(image(t, a), image(t, b)) {
			t.Fatalf("replicas disagree on %s: %v, %v", p, errA, errB)
		}
		if c.Validate() != nil {
			if errA == nil {
				t.Fatalf("%s is not valid, but was applied", p)
			}
			return
		}
		again, err := EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := DecodeCommand(again); err != nil || d.Kind() != c.Kind() {
			t.Fatalf("%s cannot be read again: %v", again, err)
		}
	})
}

func TestErrorsTravel(t *testing.T) {
	for code, sentinel := range codes {
		err := fmt.Errorf("do something with %q: %w", "x", sentinel)
		got, ok := ErrorCode(err)
		if !ok || got != code {
			t.Errorf("%v has code %q, want %q", err, got, code)
		}
		back := ErrorOf(code, err.Error())
		if !errors.Is(back, sentinel) || back.Error() != err.Error() {
			t.Errorf("%v came back as %v", err, back)
		}
	}
	if _, ok := ErrorCode(errors.New("other")); ok {
		t.Error("a code for an unknown error")
	}
	if err := ErrorOf("from_the_future", "text"); err.Error() != "text" {
		t.Errorf("unknown code: %v", err)
	}
}

func TestReportsAreSplit(t *testing.T) {
	var r Report
	r.Host = hostID(1)
	wide := ShardSet{}
	for i := range 2000 {
		wide = wide.append(3 * i)
	}
	for i := range 10_000 {
		h := Holding{digest(i), AllShards()}
		if i%100 == 0 {
			h.Shards = wide
		}
		r.Holdings = append(r.Holdings, h)
		r.Dropped = append(r.Dropped, digest(-i-1))
	}
	held, dropped := 0, 0
	for _, part := range r.Split() {
		if _, err := EncodeCommand(Command{Report: &part}); err != nil {
			t.Fatal(err)
		}
		held, dropped = held+len(part.Holdings), dropped+len(part.Dropped)
	}
	if held != 10_000 || dropped != 10_000 {
		t.Errorf("parts hold %d and %d, want 10000 each", held, dropped)
	}
	if parts := (Report{Host: hostID(1)}).Split(); len(parts) != 1 {
		t.Errorf("an empty report became %d", len(parts))
	}
}
