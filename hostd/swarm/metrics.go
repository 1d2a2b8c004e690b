package swarm

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an operator asks of the swarm; docs/swarm.md explains each.
type metrics struct {
	bytesIn, bytesOut       *total
	chunksIn, chunksOut     prometheus.Counter
	duplicates, bad, stalls prometheus.Counter
	failures                prometheus.Counter
	ratio                   prometheus.Histogram
	jobs, sources           prometheus.Gauge
	sessions, followers     prometheus.Gauge
}

// newMetrics makes the metrics and registers them with r, unless it is nil.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	var errs []error
	register := func(c prometheus.Collector) {
		if r != nil {
			errs = append(errs, r.Register(c))
		}
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "virtswarm", Subsystem: "swarm", Name: name, Help: help})
		register(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "virtswarm", Subsystem: "swarm", Name: name, Help: help})
		register(g)
		return g
	}
	sum := func(name, help string) *total {
		t := &total{}
		opts := prometheus.CounterOpts{Namespace: "virtswarm", Subsystem: "swarm", Name: name, Help: help}
		register(prometheus.NewCounterFunc(opts, func() float64 { return float64(t.bytes.Load()) }))
		return t
	}
	m := &metrics{
		bytesIn:    sum("received_bytes_total", "Bytes of chunks received from other hosts, duplicates and bad ones included."),
		bytesOut:   sum("sent_bytes_total", "Bytes of chunks read and verified for other hosts."),
		chunksIn:   counter("received_chunks_total", "Chunks received from other hosts and stored."),
		chunksOut:  counter("sent_chunks_total", "Chunks read and verified for other hosts."),
		duplicates: counter("duplicate_chunks_total", "Chunks received although they were here already."),
		bad:        counter("bad_chunks_total", "Chunks received that did not match their digest."),
		stalls:     counter("stalls_total", "Times that a host was put aside because it sent nothing."),
		failures:   counter("unreadable_chunks_total", "Chunks that another host asked for and this one could not read."),
		jobs:       gauge("jobs", "Files being fetched, or kept open for the next reader."),
		sources:    gauge("sources", "Hosts that jobs can fetch from, summed over jobs."),
		sessions:   gauge("sessions", "Sessions with other hosts."),
		followers:  gauge("followers", "Files that other hosts follow here, summed over hosts."),
	}
	m.ratio = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "virtswarm", Subsystem: "swarm", Name: "fetch_time_ratio",
		Help:    "Time that fetches took, over the time at the best rate that this host saw meanwhile.",
		Buckets: []float64{1.02, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10}})
	register(m.ratio)
	return m, errors.Join(errs...)
}

// total counts bytes, for a metric and for those who ask. It is safe for concurrent use.
type total struct{ bytes atomic.Int64 }

// Add counts n bytes more.
func (t *total) Add(n float64) { t.bytes.Add(int64(n)) }

// Moved returns the bytes of chunks that were sent to and received from other hosts since the start, duplicates and bad
// ones included.
func (s *Swarm) Moved() (sent, received int64) {
	return s.metrics.bytesOut.bytes.Load(), s.metrics.bytesIn.bytes.Load()
}
