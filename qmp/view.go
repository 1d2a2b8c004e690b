package qmp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

// look asks a QEMU for all that its guest's picture shows, save what depends on its socket. What QEMU refuses to tell
// (an older one, or one before its machine exists) stays empty; only the status it must tell.
func (s *session) look(ctx context.Context) (Guest, error) {
	var g Guest
	var status struct{ Status string }
	if err := s.do(ctx, "query-status", nil, &status); err != nil {
		return Guest{}, err
	}
	g.Status = status.Status
	for _, part := range []func(context.Context, *Guest) error{s.lookName, s.lookSize, s.lookDisks, s.lookCID, s.lookMemory} {
		if err := part(ctx, &g); err != nil && !errors.Is(err, ErrRefused) {
			return Guest{}, err
		}
	}
	if len(g.Status) > maxText || len(g.Name) > maxText {
		return Guest{}, fmt.Errorf("look at guest: %w: name or status of more than %d bytes", ErrTooLarge, maxText)
	}
	return g, nil
}

func (s *session) lookName(ctx context.Context, g *Guest) error {
	var uuid struct{ UUID string }
	if err := s.do(ctx, "query-uuid", nil, &uuid); err != nil {
		return err
	}
	id, err := parseUUID(uuid.UUID)
	if err != nil {
		return err
	}
	g.UUID = id
	var name struct{ Name string }
	err = s.do(ctx, "query-name", nil, &name)
	g.Name = name.Name
	return err
}

func (s *session) lookSize(ctx context.Context, g *Guest) error {
	var memory struct {
		Base    uint64 `json:"base-memory"`
		Plugged uint64 `json:"plugged-memory"`
	}
	if err := s.do(ctx, "query-memory-size-summary", nil, &memory); err != nil {
		return err
	}
	if memory.Base > math.MaxInt64/2 || memory.Plugged > math.MaxInt64/2 {
		return fmt.Errorf("look at memory: %w: %d + %d bytes", ErrTooLarge, memory.Base, memory.Plugged)
	}
	g.Memory = int64(memory.Base + memory.Plugged)
	var cpus json.RawMessage
	if err := s.do(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return err
	}
	return each(cpus, maxCPUs, func(*struct{}) error { g.VCPUs++; return nil })
}

func (s *session) lookDisks(ctx context.Context, g *Guest) error {
	var blocks json.RawMessage
	if err := s.do(ctx, "query-block", nil, &blocks); err != nil {
		return err
	}
	var err error
	g.Disks, err = decodeDisks(blocks)
	return err
}

// lookCID finds the CID of the guest's vsock among the devices that were made by name.
func (s *session) lookCID(ctx context.Context, g *Guest) error {
	left := maxVsocks
	for _, parent := range []string{peripheral, peripheralAnon} {
		names, err := s.list(ctx, parent, func(kind string) bool {
			return strings.HasPrefix(kind, "child<vhost-") && strings.Contains(kind, "vsock")
		})
		if err != nil {
			return err
		}
		for _, name := range names[:min(len(names), left)] {
			left--
			var cid uint64
			err := s.do(ctx, "qom-get", map[string]string{"path": parent + "/" + name, "property": "guest-cid"}, &cid)
			if errors.Is(err, ErrRefused) {
				continue // vhost-user: it has no such property
			}
			if err != nil {
				return err
			}
			if cid >= cidMin && cid <= cidMax {
				g.CID = uint32(cid)
				return nil
			}
		}
	}
	return nil
}

// Where QEMU's object tree has the devices with an id, those without, and the objects.
const (
	peripheral     = "/machine/peripheral"
	peripheralAnon = "/machine/peripheral-anon"
	objects        = "/objects"
)

// list returns the names of a parent's children whose type a condition holds for.
func (s *session) list(ctx context.Context, parent string, of func(kind string) bool) ([]string, error) {
	var children json.RawMessage
	if err := s.do(ctx, "qom-list", map[string]string{"path": parent}, &children); err != nil {
		return nil, err
	}
	type child struct{ Name, Type string }
	var names []string
	err := each(children, maxDevices, func(c *child) error {
		if of(c.Type) && len(c.Name) <= maxText {
			names = append(names, c.Name)
		}
		return nil
	})
	return names, err
}

// each decodes the elements of a JSON array one by one: an array of many small ones takes no more memory than one.
func each[T any](raw []byte, limit int, do func(*T) error) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return fmt.Errorf("decode list: %w: it is none", ErrNotQMP)
	}
	for n := 0; dec.More(); n++ {
		if n == limit {
			return fmt.Errorf("decode list: %w: more than %d elements", ErrTooLarge, limit)
		}
		v := new(T)
		if err := dec.Decode(v); err != nil {
			return fmt.Errorf("decode list: %w: %.100v", ErrNotQMP, err)
		}
		if err := do(v); err != nil {
			return err
		}
	}
	return nil
}
