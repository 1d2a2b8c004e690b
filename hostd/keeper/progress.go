package keeper

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/placement"
)

// Work is what this host has still to fetch of what it must hold.
type Work struct {
	Files  int     // contents
	Shards int     // of them
	Bytes  int64   // of data; an estimate for contents of which this host knows nothing yet
	Rate   float64 // bytes a second that arrive now
}

// Progress says how far this host is with what it must hold.
type Progress struct {
	Repair     Work  // copies that were lost, or have moved
	Distribute Work  // copies that somebody waits for: of a new publication, or by order
	NoRoom     int   // files, of both, that do not fit on this disk: they are tried again when there is room
	Evicted    int64 // bytes since the start
}

// Progress says what is to be done yet.
func (k *Keeper) Progress() Progress {
	p := Progress{Evicted: k.evicted.Load()}
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, j := range k.running {
		must, prio := k.duty(id)
		w := &p.Distribute
		if prio == swarm.Repair {
			w = &p.Repair
		}
		k.weigh(w, placement.Duty{ID: id, Shards: must})
		w.Rate += j.rate
		if j.noRoom {
			p.NoRoom++
		}
	}
	return p
}

// weigh adds what is missing of a duty.
func (k *Keeper) weigh(w *Work, d placement.Duty) {
	w.Files++
	if f, ok := k.cfg.Store.Get(d.ID); ok {
		m, have := f.Manifest(), f.Have()
		lack := missing(f, d.Shards).Bits(m.Shards())
		for s, ok := lack.NextSet(0); ok; s, ok = lack.NextSet(s + 1) {
			w.Shards++
			w.Bytes += lackingBytes(m, have, s)
		}
		return
	}
	k.cfg.Catalogue.View(func(s *placement.State) {
		c, ok := s.Content(d.ID)
		if !ok {
			return
		}
		n := d.Shards.Count(c.Shards)
		w.Shards += n
		w.Bytes += c.DataBytes / int64(c.Shards) * int64(n)
	})
}

// register shows the same as metrics.
func (k *Keeper) register() {
	if k.cfg.Metrics == nil {
		return
	}
	gauge := func(name, help string, f func(Progress) float64) {
		k.cfg.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "virtswarm", Subsystem: "keeper", Name: name, Help: help,
		}, func() float64 { return f(k.Progress()) }))
	}
	gauge("repair_shards", "Shards that this host has to fetch because copies were lost or have moved.", func(p Progress) float64 { return float64(p.Repair.Shards) })
	gauge("repair_bytes", "Data in them.", func(p Progress) float64 { return float64(p.Repair.Bytes) })
	gauge("distribute_shards", "Shards that this host has to fetch because somebody waits for them.", func(p Progress) float64 { return float64(p.Distribute.Shards) })
	gauge("distribute_bytes", "Data in them.", func(p Progress) float64 { return float64(p.Distribute.Bytes) })
	gauge("no_room_files", "Files that this host must hold and has no room for.", func(p Progress) float64 { return float64(p.NoRoom) })
	k.cfg.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "virtswarm", Subsystem: "keeper", Name: "stray_bytes", Help: "Data of contents in the store that the catalogue does not name.",
	}, func() float64 { return float64(k.StrayBytes()) }))
	k.cfg.Metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "virtswarm", Subsystem: "keeper", Name: "evicted_bytes_total", Help: "Data evicted to make room.",
	}, func() float64 { return float64(k.evicted.Load()) }))
}
