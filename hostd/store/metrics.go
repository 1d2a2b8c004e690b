package store

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the store's own numbers, registered while it is open.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector

	readBytes, writtenBytes, importedBytes, dedupBytes   prometheus.Counter
	corrupt, recovered, damagedFiles, damagedBitmapSlots prometheus.Counter
	droppedBytes                                         prometheus.Counter
	syncSeconds                                          prometheus.Histogram
}

func newMetrics(s *Store) *metrics {
	m := &metrics{}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "virtswarm", Subsystem: "store", Name: name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	gauge := func(name, help string, f func() float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "virtswarm", Subsystem: "store", Name: name, Help: help}, f))
	}
	m.readBytes = counter("read_bytes_total", "Bytes of chunks read and found right.")
	m.writtenBytes = counter("written_bytes_total", "Bytes of chunks verified and written.")
	m.importedBytes = counter("imported_bytes_total", "Data bytes of files taken in.")
	m.dedupBytes = counter("dedup_bytes_total", "Bytes of chunks that another local file had, copied instead of fetched.")
	m.droppedBytes = counter("dropped_bytes_total", "Bytes of chunks given up to make room.")
	m.corrupt = counter("corrupt_chunks_total", "Chunks found damaged on disk.")
	m.recovered = counter("recovered_chunks_total", "Chunks found on disk at start that no bitmap named yet.")
	m.damagedFiles = counter("damaged_files_total", "Files set aside at start because of a damaged manifest.")
	m.damagedBitmapSlots = counter("damaged_bitmap_slots_total", "Bitmap slots found torn or damaged at start.")
	m.syncSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "virtswarm", Subsystem: "store", Name: "sync_seconds",
		Help:    "Time to make written chunks of one file durable.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
	})
	m.all = append(m.all, m.syncSeconds)
	gauge("files", "Files in the store, complete or not.", func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.files))
	})
	gauge("held_bytes", "Data bytes held.", func() float64 { return float64(s.space.held.Load()) })
	gauge("found_bytes", "Data bytes held when the store was opened.", func() float64 { return float64(s.found) })
	gauge("arriving_bytes", "Data bytes that are being written or given back.", func() float64 { return float64(s.Usage().Arriving) })
	gauge("quota_bytes", "Limit on the held bytes, 0 for none but the file system's.", func() float64 { return float64(s.Usage().Quota) })
	gauge("budget_bytes", "Bytes that the store may hold now, by the quota and by the file system.", func() float64 { return float64(s.Usage().Budget) })
	gauge("free_bytes", "Bytes free in the store's file system.", func() float64 { return float64(s.Usage().Free) })
	gauge("open_files", "Data files kept open.", func() float64 { return float64(s.handles.count()) })
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	m.registerer = r
	for i, c := range m.all {
		if err := r.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return err
		}
	}
	return nil
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}
