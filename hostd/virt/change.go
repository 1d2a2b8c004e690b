package virt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

const (
	changePatience = 20 * time.Second // for a call that changes a domain
	unplugPatience = 30 * time.Second // for a guest to let go of a device
	unplugLook     = time.Second      // between looks whether it is gone, should its event be lost
)

// SetMetadata changes virtswarm's metadata of a domain by edit: of what runs, and of what is defined for its next start,
// each on its own, for the two may differ. edit gets what is there now, and what it returns must be valid; an error of
// it changes nothing and is returned. It is called once for each definition, for what runs last, and again if somebody
// else has changed one meanwhile. Other calls of SetMetadata wait. Libvirt has no lock for it, so that what others
// write in the very moment of the write may be lost. Metadata that is there and invalid is not overwritten:
// ErrBadMetadata.
func (w *Watcher) SetMetadata(ctx context.Context, uuid string, edit func(Metadata) (Metadata, error)) error {
	ctx, cancel := context.WithTimeout(ctx, changePatience)
	defer cancel()
	select {
	case w.editing <- struct{}{}:
		defer func() { <-w.editing }()
	case <-ctx.Done():
		return fmt.Errorf("set metadata of domain %s: another change is under way: %w", uuid, ctx.Err())
	}
	for {
		var found texts
		err := w.do(ctx, "read metadata", uuid, func(c conn) (err error) {
			found, err = c.metadata(uuid)
			return err
		})
		if err != nil {
			return err
		}
		wanted := found
		for _, text := range []**string{&wanted.config, &wanted.live} {
			if *text == nil {
				continue
			}
			edited, err := edited(**text, edit)
			if err != nil {
				return fmt.Errorf("set metadata of domain %s: %w", uuid, err)
			}
			*text = &edited
		}
		written := false
		err = w.do(ctx, "set metadata", uuid, func(c conn) error {
			now, err := c.metadata(uuid)
			if err != nil || !now.equal(found) {
				return err
			}
			written = true
			return c.setMetadata(uuid, wanted)
		})
		if written || err != nil {
			return err
		}
	}
}

// edited returns metadata as edit leaves it, "" if nothing is left.
func edited(text string, edit func(Metadata) (Metadata, error)) (string, error) {
	old, err := ParseMetadata(text)
	if err != nil {
		return "", fmt.Errorf("correct it with 'virsh metadata' or 'virsh edit' first: %w", err)
	}
	m, err := edit(old)
	if err != nil {
		return "", err
	}
	m.Tags = sortedOnce(m.Tags)
	if err := m.Validate(); err != nil || m.IsZero() {
		return "", err
	}
	return FormatMetadata(m), nil
}

// Plug plugs a device into a running domain; device is its element of libvirt's XML. To unplug it, give it an alias:
// <alias name='ua-…'/>.
func (w *Watcher) Plug(ctx context.Context, uuid, device string) error {
	return w.do(ctx, "plug device", uuid, func(c conn) error { return c.plug(uuid, device) })
}

// removal is a device that somebody waits for to be gone.
type removal struct {
	uuid, alias string
	done        chan error // room for one
}

// Unplug unplugs a device, named by its alias, from a running domain and waits until the guest has let go of it: 30
// seconds, or until ctx is done. ErrNotUnplugged says that it has not, or will not; it may yet. A device that is not
// there is unplugged.
func (w *Watcher) Unplug(ctx context.Context, uuid, alias string) error {
	ctx, cancel := context.WithTimeout(ctx, unplugPatience)
	defer cancel()
	r := &removal{uuid, alias, make(chan error, 1)}
	w.await(r)
	defer w.forget(r)
	if there, err := w.plugged(ctx, uuid, alias); err != nil || !there {
		return err
	}
	if err := w.do(ctx, "unplug device", uuid, func(c conn) error { return c.unplug(uuid, alias) }); err != nil {
		return err
	}
	look := time.NewTicker(unplugLook)
	defer look.Stop()
	for {
		select {
		case err := <-r.done:
			return err
		case <-look.C:
			if there, err := w.plugged(ctx, uuid, alias); err == nil && !there {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("unplug device %s of domain %s: %w: %w", alias, uuid, ErrNotUnplugged, ctx.Err())
		}
	}
}

// plugged reports whether a domain runs with a device.
func (w *Watcher) plugged(ctx context.Context, uuid, alias string) (there bool, err error) {
	err = w.do(ctx, "look for device", uuid, func(c conn) error {
		said, err := c.read(uuid)
		there = err == nil && said.state.Active() && hasAlias(said.xml, alias)
		return err
	})
	if errors.Is(err, ErrNoDomain) {
		return false, nil
	}
	return there, err
}

// hasAlias reports whether a device of that alias is in a domain's XML.
func hasAlias(text, alias string) bool {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "alias" {
			continue
		}
		for _, a := range start.Attr {
			if a.Name.Local == "name" && a.Value == alias {
				return true
			}
		}
	}
}

func (w *Watcher) await(r *removal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removals[r] = struct{}{}
}

func (w *Watcher) forget(r *removal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.removals, r)
}

// removed tells who waits for a device what became of it.
func (w *Watcher) removed(kind eventKind, uuid, alias string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.removals {
		if r.uuid != uuid || r.alias != alias {
			continue
		}
		var err error
		if kind == eventRemovalFailed {
			err = fmt.Errorf("unplug device %s of domain %s: the guest refuses: %w", alias, uuid, ErrNotUnplugged)
		}
		select {
		case r.done <- err:
		default:
		}
	}
}

// do makes a call that changes something, for each domain one at a time. Its caller is let go when ctx is done or
// patience is over; the call then goes on, and may yet do what it was to do.
func (w *Watcher) do(ctx context.Context, verb, uuid string, fn func(conn) error) error {
	fail := func(err error) error { return fmt.Errorf("%s of domain %s: %w", verb, uuid, err) }
	if !placement.ValidUUID(uuid) {
		return fmt.Errorf("%s of domain %.80q: not a UUID: %w", verb, uuid, ErrNoDomain)
	}
	ctx, cancel := context.WithTimeout(ctx, changePatience)
	defer cancel()
	release, err := w.claim(ctx, uuid)
	if err != nil {
		return fail(err)
	}
	w.mu.Lock()
	s, why := w.session, w.why
	w.mu.Unlock()
	if s == nil || !s.enter() {
		release()
		if why == nil {
			why = ErrDisconnected // just now
		}
		return fail(why)
	}
	done := make(chan error, 1)
	go func() {
		err := fn(s.conn)
		if err != nil && !errors.Is(err, ErrNoDomain) && !s.conn.alive() {
			err = fmt.Errorf("%w: %w", ErrDisconnected, err)
		}
		s.leave()
		release()
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fail(err)
		}
		w.inbox.add(uuid) // whatever the events say
		return nil
	case <-ctx.Done():
		return fail(fmt.Errorf("%w, and may do it yet: see whether its QEMU or libvirtd hangs: %w", ErrTimeout, ctx.Err()))
	}
}

// claim waits until no other change of a domain is under way, and then for a slot: a QEMU that hangs, and the call with
// it, costs one slot however often it is tried again.
func (w *Watcher) claim(ctx context.Context, uuid string) (release func(), err error) {
	mine := make(chan struct{})
	for {
		w.mu.Lock()
		other := w.claims[uuid]
		if other == nil {
			w.claims[uuid] = mine
		}
		w.mu.Unlock()
		if other == nil {
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w an earlier call: see whether its QEMU hangs: %w", ErrTimeout, ctx.Err())
		}
	}
	free := func() {
		w.mu.Lock()
		delete(w.claims, uuid)
		w.mu.Unlock()
		close(mine)
	}
	select {
	case w.changing <- struct{}{}:
		return func() { <-w.changing; free() }, nil
	case <-ctx.Done():
		free()
		return nil, fmt.Errorf("%w earlier calls for other domains: see whether their QEMUs or libvirtd hang: %w", ErrTimeout, ctx.Err())
	}
}
