package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/placement"
)

// A host's settings (labels, weight, limits) stand in the catalogue, where 'virtswarm host set' changes them. The
// configuration file has their first values. It has a say again only when it was edited: so this host remembers what
// it told the catalogue last, and at a start tells what differs from that.

// maxSettings is more than labels of the greatest number and length take.
const maxSettings = 1 << 20

// settings is what the configuration says of them.
type settings struct {
	Weight uint32            `json:"weight"`
	Labels map[string]string `json:"labels,omitempty"`
	Limits placement.Limits  `json:"limits"`
	// Address is where the others were told to find this host. The configuration need not say it.
	Address string `json:"address,omitempty"`
}

func (h *Host) settingsPath() string { return filepath.Join(h.cfg.Data, "settings.json") }

func (h *Host) configured() settings {
	return settings{Weight: h.cfg.Weight, Labels: h.cfg.Labels, Limits: h.cfg.limits(), Address: h.advertise}
}

// noteSettings remembers that the catalogue was told of the configuration.
func (h *Host) noteSettings() error {
	p, err := json.Marshal(h.configured())
	if err != nil {
		return fmt.Errorf("note settings: %w", err)
	}
	if err := disk.WriteFile(h.fs, h.settingsPath(), append(p, '\n'), 0o600); err != nil {
		return fmt.Errorf("note settings: %w", err)
	}
	return nil
}

// toldSettings returns what noteSettings remembered last. The error is fs.ErrNotExist if there is nothing.
func (h *Host) toldSettings() (told settings, err error) {
	p, err := disk.ReadFile(h.fs, h.settingsPath(), maxSettings)
	if err != nil {
		return told, fmt.Errorf("read settings: %w", err)
	}
	if err := json.Unmarshal(p, &told); err != nil {
		return told, fmt.Errorf("read settings: %s: %w (remove the file, and the configuration has its say anew)", h.settingsPath(), err)
	}
	return told, nil
}

// editedSettings returns the command that tells the catalogue what was edited in the configuration since noteSettings;
// all of it if there never was one.
func (h *Host) editedSettings() (placement.UpdateHost, error) {
	now := h.configured()
	u := placement.UpdateHost{ID: h.self}
	told, err := h.toldSettings()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		u.Weight, u.Labels = now.Weight, maps.Clone(now.Labels)
		if u.Labels == nil {
			u.Labels = map[string]string{}
		}
		l := &now.Limits
		u.Up, u.Down, u.Quota, u.High, u.Low = &l.Up, &l.Down, &l.Quota, &l.High, &l.Low
		return u, nil
	case err != nil:
		return u, err
	}
	if now.Weight != told.Weight {
		u.Weight = now.Weight
	}
	u.Relabel = map[string]string{}
	for k := range told.Labels {
		if _, ok := now.Labels[k]; !ok {
			u.Relabel[k] = ""
		}
	}
	for k, v := range now.Labels {
		if old, ok := told.Labels[k]; !ok || old != v {
			u.Relabel[k] = v
		}
	}
	u.Up, u.Down = edited(now.Limits.Up, told.Limits.Up), edited(now.Limits.Down, told.Limits.Down)
	u.Quota = edited(now.Limits.Quota, told.Limits.Quota)
	if now.Limits.High != told.Limits.High || now.Limits.Low != told.Limits.Low {
		u.High, u.Low = &now.Limits.High, &now.Limits.Low // together: one of them may not fit the other's old value
	}
	return u, nil
}

// edited returns what is now, nil if it was so before.
func edited[T comparable](now, before T) *T {
	if now == before {
		return nil
	}
	return &now
}

// followSettings keeps to the limits that the catalogue has for this host, from one change to the next.
func (h *Host) followSettings(ctx context.Context) {
	kept := h.cfg.limits()
	h.keepTo(kept)
	for {
		changed := h.node.Changed()
		var me placement.Host
		var known bool
		h.node.View(func(s *placement.State) { me, known = s.Host(h.self) })
		if known && me.Limits != kept {
			kept = me.Limits
			h.keepTo(kept)
			high, low := kept.Watermarks()
			h.log.Info("limits changed", "up", kept.Up, "down", kept.Down, "quota", kept.Quota, "high", high, "low", low)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// keepTo hands limits to those who keep to them.
func (h *Host) keepTo(l placement.Limits) {
	high, low := l.Watermarks()
	h.store.SetQuota(store.Quota{Bytes: l.Quota, High: high, Low: low})
	h.swarm.SetLimits(l.Up, l.Down)
}
