package virt

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/placement"
)

const someDigest = "b3:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParseMetadata(t *testing.T) {
	whole := Metadata{
		Needs: []placement.Need{{Name: "images/debian.raw", ID: someDigest, Path: "/var/lib/libvirt/images/debian.raw"}, {Name: "b & c"}},
		Tags:  []string{"db", "web"},
	}
	const body = `%[1]sfile name="images/debian.raw" digest="` + someDigest + `" path="/var/lib/libvirt/images/debian.raw"/>
		<%[2]stag> web </%[2]stag><%[2]stag>db</%[2]stag><%[2]stag>web</%[2]stag><%[2]sfile name="b &amp; c"/>`
	inner := func(prefix string) string { return fmt.Sprintf("<"+body, prefix, prefix) }
	tests := map[string]struct {
		text string
		want Metadata
		bad  bool
	}{
		"nothing":                 {"", Metadata{}, false},
		"blank":                   {" \n", Metadata{}, false},
		"empty":                   {"<domain/>", Metadata{}, false},
		"prefixed":                {`<virtswarm:domain xmlns:virtswarm="urn:virtswarm:domain:1">` + inner("virtswarm:") + `</virtswarm:domain>`, whole, false},
		"another prefix":          {`<v:domain xmlns:v="urn:virtswarm:domain:1">` + inner("v:") + `</v:domain>`, whole, false},
		"default namespace":       {`<domain xmlns="urn:virtswarm:domain:1">` + inner("") + `</domain>`, whole, false},
		"children without one":    {`<v:domain xmlns:v="urn:virtswarm:domain:1">` + inner("") + `</v:domain>`, whole, false},
		"as libvirt hands it out": {`<domain>` + inner("") + `</domain>`, whole, false},
		"foreign children":        {`<domain xmlns:x="urn:x"><x:file name=".."/><x:tag>! !</x:tag></domain>`, Metadata{}, false},
		"a later version's":       {`<domain><mount path="/"><file name="/"/></mount><tag>a</tag></domain>`, Metadata{Tags: []string{"a"}}, false},
		"our prefix, not ours":    {`<virtswarm:domain xmlns:virtswarm="urn:else"/>`, Metadata{}, true},
		"another element":         {`<guest/>`, Metadata{}, true},
		"no XML":                  {`domain`, Metadata{}, true},
		"cut off":                 {`<domain><file name="a"/>`, Metadata{}, true},
		"no name":                 {`<domain><file path="/a"/></domain>`, Metadata{}, true},
		"a name that climbs":      {`<domain><file name="../a"/></domain>`, Metadata{}, true},
		"a bad digest":            {`<domain><file name="a" digest="b3:12"/></domain>`, Metadata{}, true},
		"a relative path":         {`<domain><file name="a" path="a"/></domain>`, Metadata{}, true},
		"a path that climbs":      {`<domain><file name="a" path="/var/../etc/passwd"/></domain>`, Metadata{}, true},
		"one bad among good":      {`<domain><file name="a"/><tag>a b</tag></domain>`, Metadata{}, true},
		"an empty tag":            {`<domain><tag/></domain>`, Metadata{}, true},
		"too many files":          {`<domain>` + strings.Repeat(`<file name="a"/>`, placement.MaxNeeds+1) + `</domain>`, Metadata{}, true},
		"too many elements":       {`<domain>` + strings.Repeat(`<x/>`, maxMetadata+1) + `</domain>`, Metadata{}, true},
		"too long":                {`<domain>` + strings.Repeat(" ", maxXML) + `</domain>`, Metadata{}, true},
		"shared memory":           {`<domain><shm size="16777216"/></domain>`, Metadata{Shm: 16 << 20}, false},
		"with a unit":             {`<v:domain xmlns:v="urn:virtswarm:domain:1"><v:shm size="16MiB"/></v:domain>`, Metadata{Shm: 16 << 20}, false},
		"what a guest publishes":  {`<domain><push quota="10GiB" prefix="builds/web" guests="tag:web"/></domain>`, Metadata{Push: &placement.Push{Quota: 10 << 30, Prefix: "builds/web", Guests: "tag:web"}}, false},
		"a quota alone":           {`<domain><push quota="12345"/></domain>`, Metadata{Push: &placement.Push{Quota: 12345}}, false},
		"no size":                 {`<domain><shm/></domain>`, Metadata{}, true},
		"a size of nothing":       {`<domain><shm size="0"/></domain>`, Metadata{}, true},
		"a size below nothing":    {`<domain><shm size="-1"/></domain>`, Metadata{}, true},
		"no power of two":         {`<domain><shm size="3MiB"/></domain>`, Metadata{}, true},
		"too small a memory":      {`<domain><shm size="512KiB"/></domain>`, Metadata{}, true},
		"too large a memory":      {`<domain><shm size="2GiB"/></domain>`, Metadata{}, true},
		"memory twice":            {`<domain><shm size="1MiB"/><shm size="1MiB"/></domain>`, Metadata{}, true},
		"no quota":                {`<domain><push prefix="a"/></domain>`, Metadata{}, true},
		"too large a quota":       {`<domain><push quota="4EiB"/></domain>`, Metadata{}, true},
		"a prefix that climbs":    {`<domain><push quota="1" prefix="../a"/></domain>`, Metadata{}, true},
		"nobody's policy":         {`<domain><push quota="1" guests="tag:"/></domain>`, Metadata{}, true},
		"push twice":              {`<domain><push quota="1"/><push quota="1"/></domain>`, Metadata{}, true},
		"an entity of its own":    {`<!DOCTYPE a [<!ENTITY b "c">]><domain><tag>&b;</tag></domain>`, Metadata{}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseMetadata(tt.text)
			if errors.Is(err, ErrBadMetadata) != tt.bad || (err == nil) == tt.bad {
				t.Fatalf("error %v, want one: %v", err, tt.bad)
			}
			if !(got.IsZero() && tt.want.IsZero()) && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestFormatMetadata(t *testing.T) {
	m := Metadata{
		Needs: []placement.Need{{Name: `a"<&>'b`, Path: `/a'"b`}, {Name: "c", ID: someDigest}}, Tags: []string{"x"}, Shm: 1 << 30,
		Push: &placement.Push{Quota: 5<<30 + 1, Prefix: `a"<&>'b`, Guests: "tag:x"},
	}
	text := FormatMetadata(m)
	if got, err := ParseMetadata(text); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%s reads as %+v, %v", text, got, err)
	}
	if got := FormatMetadata(Metadata{}); got != "<domain></domain>" {
		t.Errorf("nothing is written %s", got)
	}
	if got := FormatMetadata(Metadata{Shm: 16 << 20, Push: &placement.Push{Quota: 10 << 30}}); got != `<domain><shm size="16777216"/><push quota="10GiB"/></domain>` {
		t.Errorf("a guest link's wishes are written %s", got)
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add(`<v:domain xmlns:v="urn:virtswarm:domain:1"><v:file name="a" digest="` + someDigest + `" path="/a"/><v:tag>t</v:tag></v:domain>`)
	f.Add(`<domain><file name="a"/><tag>b</tag></domain>`)
	f.Add(`<domain><shm size="16777216"/><push quota="10GiB" prefix="builds/web" guests="tag:web"/></domain>`)
	f.Add(`<domain><shm size="1,024KiB"/><push quota="9007199254740993"/></domain>`)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMetadata(text)
		if err != nil {
			if !errors.Is(err, ErrBadMetadata) || !m.IsZero() {
				t.Fatalf("metadata %+v, error %v", m, err)
			}
			return
		}
		if err := m.Validate(); err != nil {
			t.Fatalf("took what is not valid: %v", err)
		}
		again, err := ParseMetadata(FormatMetadata(m))
		if err != nil || again.IsZero() != m.IsZero() || !m.IsZero() && !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v is written %s and read %+v, %v", m, FormatMetadata(m), again, err)
		}
	})
}
