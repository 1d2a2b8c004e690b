package virt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// Namespace is that of virtswarm's metadata in a domain's XML, and MetadataKey the prefix that libvirt is asked to give
// it. What matters is the namespace: a definition may use any prefix, or none.
//
//	<metadata>
//	  <virtswarm:domain xmlns:virtswarm="urn:virtswarm:domain:1">
//	    <virtswarm:file name="images/debian.raw" digest="b3:…" path="/var/lib/libvirt/images/debian.raw"/>
//	    <virtswarm:tag>web</virtswarm:tag>
//	    <virtswarm:shm size="16777216"/>
//	    <virtswarm:push quota="10GiB" prefix="builds/web" guests="tag:web"/>
//	  </virtswarm:domain>
//	</metadata>
const (
	Namespace   = "urn:virtswarm:domain:1"
	MetadataKey = "virtswarm"
)

// maxMetadata bounds the elements of the metadata, those included that this version does not know.
const maxMetadata = 2 * (placement.MaxNeeds + placement.MaxTags)

// Metadata is what virtswarm keeps in a domain's definition.
type Metadata struct {
	Needs []placement.Need // in the order of the definition
	Tags  []string         // sorted, each once
	Shm   int64            // bytes of the shared memory that its guest link is to have; 0 = none, else see ValidateMemory
	Push  *placement.Push  // what its guest may publish; nil = nothing
}

// ParseMetadata reads the element of virtswarm's metadata: as it stands in a definition, or without its namespace, as
// virDomainGetMetadata gives it. An empty text is empty metadata. It takes all or nothing: an error wraps
// ErrBadMetadata and says what is wrong. Elements that it does not know are for a later version and are passed over.
func ParseMetadata(text string) (Metadata, error) {
	if strings.TrimSpace(text) == "" {
		return Metadata{}, nil
	}
	if len(text) > maxXML {
		return Metadata{}, fmt.Errorf("parse metadata: %d bytes, at most %d: %w", len(text), maxXML, ErrBadMetadata)
	}
	var m metadataXML
	if err := xml.Unmarshal([]byte(text), &m); err != nil {
		return Metadata{}, fmt.Errorf("parse metadata: %w: %w", ErrBadMetadata, err)
	}
	return m.metadata()
}

// FormatMetadata writes the element as virDomainSetMetadata wants it: without a namespace, as libvirt adds that.
func FormatMetadata(m Metadata) string {
	var b strings.Builder
	attr := func(name, value string) {
		if value != "" {
			b.WriteString(" " + name + `="`)
			_ = xml.EscapeText(&b, []byte(value))
			b.WriteByte('"')
		}
	}
	b.WriteString("<domain>")
	for _, n := range m.Needs {
		b.WriteString("<file")
		attr("name", n.Name)
		attr("digest", n.ID)
		attr("path", n.Path)
		b.WriteString("/>")
	}
	for _, tag := range m.Tags {
		b.WriteString("<tag>")
		_ = xml.EscapeText(&b, []byte(tag))
		b.WriteString("</tag>")
	}
	if m.Shm != 0 {
		b.WriteString("<shm")
		attr("size", strconv.FormatInt(m.Shm, 10))
		b.WriteString("/>")
	}
	if p := m.Push; p != nil {
		b.WriteString("<push")
		attr("quota", formatBytes(p.Quota))
		attr("prefix", p.Prefix)
		attr("guests", p.Guests)
		b.WriteString("/>")
	}
	b.WriteString("</domain>")
	return b.String()
}

// Validate checks what ParseMetadata promises of what it returns.
func (m Metadata) Validate() error {
	for _, n := range m.Needs {
		if err := placement.ValidateName(n.Name); err != nil {
			return fmt.Errorf("%w: %w", ErrBadMetadata, err)
		}
		if n.Path != "" && (!path.IsAbs(n.Path) || path.Clean(n.Path) != n.Path) {
			return fmt.Errorf("file %q: the path %.80q is not absolute and without detours: %w", n.Name, n.Path, ErrBadMetadata)
		}
		if n.ID == "" {
			continue
		}
		if _, err := content.ParseDigest(n.ID); err != nil {
			return fmt.Errorf("file %q: %w: %w", n.Name, ErrBadMetadata, err)
		}
	}
	for _, tag := range m.Tags {
		if err := placement.ValidateTag(tag); err != nil {
			return fmt.Errorf("%w: %w", ErrBadMetadata, err)
		}
	}
	if m.Shm != 0 {
		if err := ValidateMemory(m.Shm); err != nil {
			return fmt.Errorf("%w: %w", ErrBadMetadata, err)
		}
	}
	// How many there may be, and whatever else a domain's claim is held to.
	all := anyDomain
	all.Needs, all.Tags, all.WantShm, all.Push = m.Needs, m.Tags, m.Shm, m.Push
	if err := all.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadMetadata, err)
	}
	return nil
}

func sortedOnce(tags []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(tags)))
}

// IsZero reports whether there is nothing in it.
func (m Metadata) IsZero() bool {
	return len(m.Needs) == 0 && len(m.Tags) == 0 && m.Shm == 0 && m.Push == nil
}

// anyDomain is valid: with what metadata says in it, it is as valid as that.
var anyDomain = placement.Domain{UUID: "00000000-0000-0000-0000-000000000000", Name: "any", State: placement.DomainOff, Manager: placement.ManagedByLibvirt}

// metadataXML collects the element. What is wrong with it is kept beside it: an error from UnmarshalXML would make the
// whole definition unreadable.
type metadataXML struct {
	Metadata
	found int // elements of ours, of which there may be one
	fault error
}

// UnmarshalXML implements xml.Unmarshaler.
func (m *metadataXML) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	m.found++
	if start.Name.Local != "domain" || !ours(start.Name) {
		m.fail("the element is <%.80s> in %.80q", start.Name.Local, start.Name.Space)
	}
	for elements := 0; ; {
		token, err := d.Token()
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			if elements++; elements > maxMetadata {
				m.fail("more than %d elements", maxMetadata)
			}
			if err := m.element(d, t); err != nil {
				return err
			}
		}
	}
}

// element reads one of the elements that this version knows.
func (m *metadataXML) element(d *xml.Decoder, start xml.StartElement) error {
	switch {
	case m.fault != nil || !ours(start.Name):
		return d.Skip()
	case start.Name.Local == "file":
		m.Needs = append(m.Needs, need(start.Attr))
		return d.Skip()
	case start.Name.Local == "tag":
		var tag string
		if err := d.DecodeElement(&tag, &start); err != nil {
			return err
		}
		m.Tags = append(m.Tags, strings.TrimSpace(tag))
		return nil
	case start.Name.Local == "shm":
		m.shm(start.Attr)
		return d.Skip()
	case start.Name.Local == "push":
		m.push(start.Attr)
		return d.Skip()
	}
	return d.Skip()
}

func need(attrs []xml.Attr) (n placement.Need) {
	for _, a := range attrs {
		switch a.Name.Local {
		case "name":
			n.Name = a.Value
		case "digest":
			n.ID = a.Value
		case "path":
			n.Path = a.Value
		}
	}
	return n
}

// ours reports whether an element is virtswarm's. libvirt takes the namespace away from what it hands out.
func ours(name xml.Name) bool { return name.Space == Namespace || name.Space == "" }

func (m *metadataXML) fail(format string, args ...any) {
	if m.fault == nil {
		m.fault = fmt.Errorf(format+": %w", append(args, ErrBadMetadata)...)
	}
}

// metadata returns what was read if all of it is valid.
func (m *metadataXML) metadata() (Metadata, error) {
	if m.found > 1 {
		m.fail("%d elements in namespace %s, at most one", m.found, Namespace)
	}
	m.Tags = sortedOnce(m.Tags)
	if err := errors.Join(m.fault, m.Validate()); err != nil {
		return Metadata{}, fmt.Errorf("parse metadata: %w", err)
	}
	return m.Metadata, nil
}
