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
		"an entity of its own":    {`<!DOCTYPE a [<!ENTITY b "c">]><domain><tag>&b;</tag></domain>`, Metadata{}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseMetadata(tt.text)
			if errors.Is(err, ErrBadMetadata) != tt.bad || (err == nil) == tt.bad {
				t.Fatalf("error %v, want one: %v", err, tt.bad)
			}
			if len(got.Needs)+len(tt.want.Needs)+len(got.Tags)+len(tt.want.Tags) > 0 && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestFormatMetadata(t *testing.T) {
	m := Metadata{Needs: []placement.Need{{Name: `a"<&>'b`, Path: `/a'"b`}, {Name: "c", ID: someDigest}}, Tags: []string{"x"}}
	text := FormatMetadata(m)
	if got, err := ParseMetadata(text); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%s reads as %+v, %v", text, got, err)
	}
	if got := FormatMetadata(Metadata{}); got != "<domain></domain>" {
		t.Errorf("nothing is written %s", got)
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add(`<v:domain xmlns:v="urn:virtswarm:domain:1"><v:file name="a" digest="` + someDigest + `" path="/a"/><v:tag>t</v:tag></v:domain>`)
	f.Add(`<domain><file name="a"/><tag>b</tag></domain>`)
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
		if err != nil || len(again.Needs) != len(m.Needs) || len(again.Tags) != len(m.Tags) || !again.IsZero() && !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v is written %s and read %+v, %v", m, FormatMetadata(m), again, err)
		}
	})
}
