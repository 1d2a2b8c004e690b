package guest

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// metrics count what guests do; who did it is in the log.
type metrics struct {
	links      *prometheus.CounterVec // by kind
	refused    *prometheus.CounterVec // by code
	requests   *prometheus.CounterVec // by kind of frame
	violations prometheus.Counter
	sent       prometheus.Counter
	received   prometheus.Counter
	bells      prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "virtswarm_guest_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "virtswarm_guest_" + name, Help: help}, []string{label})
	}
	m := &metrics{
		links:      vec("links_total", "Guest links taken, by kind.", "kind"),
		refused:    vec("links_refused_total", "Guest links refused, by reason.", "reason"),
		requests:   vec("requests_total", "Requests of guests, by kind of frame.", "frame"),
		violations: counter("violations_total", "Frames of guests that broke the rules of the guest link."),
		sent:       counter("sent_bytes_total", "Bytes of files sent to guests."),
		received:   counter("received_bytes_total", "Bytes of files received from guests."),
		bells:      counter("bells_total", "Times that a guest, or this host, was woken to look into shared memory."),
	}
	for _, kind := range []string{kindVSock, kindHybrid, kindShm} {
		m.links.WithLabelValues(kind)
	}
	for _, code := range []guestlink.Code{guestlink.CodeUnknown, guestlink.CodeBusy} {
		m.refused.WithLabelValues(string(code))
	}
	for _, kind := range []guestlink.Kind{guestlink.Ping, guestlink.List, guestlink.Watch, guestlink.Open, guestlink.Read, guestlink.Push} {
		m.requests.WithLabelValues(kind.String())
	}
	if r != nil {
		r.MustRegister(m.links, m.refused, m.requests, m.violations, m.sent, m.received, m.bells)
	}
	return m
}
