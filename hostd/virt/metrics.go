package virt

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an operator asks of the watcher.
type metrics struct {
	connected, domains prometheus.Gauge
	reconcile          prometheus.Histogram
	events             *prometheus.CounterVec
	badMetadata        prometheus.Counter
}

// newMetrics makes the metrics and registers them with r, unless it is nil.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "virtswarm", Subsystem: "virt", Name: name, Help: help}
	}
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts(opts("connected", "Whether libvirt can be asked: 1 or 0."))),
		domains:   prometheus.NewGauge(prometheus.GaugeOpts(opts("domains", "Domains that libvirt knows on this host."))),
		events: prometheus.NewCounterVec(prometheus.CounterOpts(opts("events_total", "Events from libvirt, by kind.")),
			[]string{"kind"}),
		badMetadata: prometheus.NewCounter(prometheus.CounterOpts(opts("bad_metadata_total",
			"Times that a domain's virtswarm metadata was found to be invalid, and left out."))),
		reconcile: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "virtswarm", Subsystem: "virt", Name: "reconcile_seconds",
			Help: "Time to read all domains again.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 14)}),
	}
	for _, kind := range eventKinds {
		m.events.WithLabelValues(string(kind))
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.connected, m.domains, m.events, m.badMetadata, m.reconcile} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

// leftOut says that something of a domain's definition was not taken.
func (w *Watcher) leftOut(name, uuid string, err error) {
	if errors.Is(err, ErrBadMetadata) {
		w.metrics.badMetadata.Inc()
		w.log.Error("domain shown without its virtswarm metadata: correct it with 'virsh metadata' or 'virsh edit'", "domain", name, "uuid", uuid, "error", err)
		return
	}
	w.log.Warn("part of a domain left out", "domain", name, "uuid", uuid, "error", err)
}
