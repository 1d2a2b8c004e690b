package placement

import (
	"fmt"
	"slices"
)

func (c *ReportDomains) validate() error {
	switch n := max(len(c.Domains), len(c.Gone)); {
	case c.Seq == 0:
		return fmt.Errorf("report domains of host %.80q: without a number: %w", c.Host, ErrBadCommand)
	case n > MaxReported:
		return fmt.Errorf("report domains of host %.80q: %d domains, at most %d: %w", c.Host, n, MaxReported, ErrTooMany)
	}
	seen := make(map[string]bool, len(c.Domains)+len(c.Gone))
	once := func(uuid string) error {
		if seen[uuid] {
			return fmt.Errorf("report domains of host %.80q: %.80q twice: %w", c.Host, uuid, ErrBadCommand)
		}
		seen[uuid] = true
		return nil
	}
	for i := range c.Domains {
		if err := c.Domains[i].validate(); err != nil {
			return err
		}
		if err := once(c.Domains[i].UUID); err != nil {
			return err
		}
	}
	for _, uuid := range c.Gone {
		if err := once(uuid); err != nil {
			return err
		}
	}
	return nil
}

// Validate checks what a host may say of a domain. It is for who makes a Domain of what others wrote.
func (d Domain) Validate() error { return d.validate() }

func (d *Domain) validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("domain %.80q (%.80q): %s: %w", d.Name, d.UUID, fmt.Sprintf(format, args...), ErrInvalidDomain)
	}
	switch {
	case !ValidUUID(d.UUID):
		return fail("no UUID in lower case")
	case nameFault(d.Name, MaxDomainName) != "":
		return fail("its name %s", nameFault(d.Name, MaxDomainName))
	case !d.State.reportable():
		return fail("state %.80q", d.State)
	case d.Manager != ManagedByLibvirt && d.Manager != ManagedByQMP:
		return fail("managed by %.80q", d.Manager)
	case d.Migration != "" && d.Migration != MigratingIn && d.Migration != MigratingOut:
		return fail("migrates %.80q", d.Migration)
	case d.VCPUs < 0 || d.Memory < 0:
		return fail("%d vCPUs, %d bytes of memory", d.VCPUs, d.Memory)
	case d.Awaits != "" && nameFault(d.Awaits, MaxName) != "":
		return fail("the name of the file that it awaits %s", nameFault(d.Awaits, MaxName))
	case len(d.Disks) > MaxDisks:
		return fail("%d disks, at most %d", len(d.Disks), MaxDisks)
	case len(d.Needs) > MaxNeeds:
		return fail("needs %d files, at most %d", len(d.Needs), MaxNeeds)
	}
	for _, disk := range d.Disks {
		if why := nameFault(disk.Target, MaxLabel); why != "" {
			return fail("the name of a disk %s", why)
		}
		if len(disk.Chain) > MaxChain {
			return fail("%d images in disk %s, at most %d", len(disk.Chain), disk.Target, MaxChain)
		}
		for _, p := range disk.Chain {
			if why := nameFault(p, MaxPath); why != "" {
				return fail("an image of disk %s %s", disk.Target, why)
			}
		}
	}
	for _, n := range d.Needs {
		if err := ValidateName(n.Name); err != nil {
			return fail("it needs: %v", err)
		}
		if n.Path != "" && (n.Path[0] != '/' || nameFault(n.Path, MaxPath) != "") {
			return fail("the path %.80q for %q is not absolute, or too long", n.Path, n.Name)
		}
		if len(n.ID) > MaxLabel {
			return fail("a digest of %d bytes for %q", len(n.ID), n.Name)
		}
	}
	if d.Shm < 0 || d.WantShm < 0 || d.WantShm > MaxShm {
		return fail("shared memory of %d bytes, %d wanted, at most %d", d.Shm, d.WantShm, int64(MaxShm))
	}
	if err := d.Push.validate(); err != nil {
		return fail("what it may publish: %v", err)
	}
	return validateTags(d.Tags)
}

func (p *Push) validate() error {
	switch {
	case p == nil:
		return nil
	case p.Quota <= 0 || p.Quota > MaxQuota:
		return fmt.Errorf("a quota of %d bytes: must be 1 to %d", p.Quota, int64(MaxQuota))
	}
	if p.Prefix != "" {
		if err := ValidateName(p.Prefix); err != nil {
			return err
		}
	}
	if p.Guests == "" {
		return nil
	}
	return ValidateGuests(p.Guests)
}

// validateTags checks that tags are few, valid and sorted, each once.
func validateTags(tags []string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("%d tags, at most %d: %w", len(tags), MaxTags, ErrInvalidDomain)
	}
	for i, tag := range tags {
		if err := ValidateTag(tag); err != nil {
			return err
		}
		if i > 0 && tag <= tags[i-1] {
			return fmt.Errorf("tag %q out of order: %w", tag, ErrInvalidDomain)
		}
	}
	return nil
}

// ValidUUID reports whether it has the form of one: lower-case hex digits in groups of 8, 4, 4, 4 and 12.
func ValidUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	return !slices.ContainsFunc([]int{8, 13, 18, 23}, func(i int) bool { return s[i] != '-' }) &&
		isHex(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])
}
