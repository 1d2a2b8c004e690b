package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
)

// meter draws a progress bar where somebody looks at it, on a terminal, and nothing elsewhere.
type meter struct {
	w     io.Writer // nil: draw nothing
	bar   *progressbar.ProgressBar
	label string
	total uint64
}

// step is one state of work under way.
type step struct {
	label       string // "fetching": a new label begins a new bar
	done, total uint64 // bytes, unless unit says otherwise
	unit        string
	rate        float64 // per second
	note        string  // e.g. where the bytes come from
	open        bool    // total is not known
}

func (c *cli) meter() *meter {
	if c.json || !isTerminal(c.stderr) {
		return &meter{}
	}
	return &meter{w: c.stderr}
}

func (m *meter) show(s step) {
	if m.w == nil {
		return
	}
	if m.bar == nil || m.label != s.label || m.total != s.total {
		m.clear()
		m.label, m.total = s.label, s.total
		m.bar = progressbar.NewOptions64(int64(max(s.total, 1)),
			progressbar.OptionSetWriter(m.w),
			progressbar.OptionFullWidth(),
			// The daemon knows the rate better than a clock that began with this bar.
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionSetPredictTime(false),
		)
	}
	m.bar.Describe(s.String())
	done := s.done
	if s.total == 0 {
		done = 1 // nothing to do is done
	}
	_ = m.bar.Set64(int64(min(done, max(s.total, 1)))) // a bar that cannot be drawn is no failure of the work
}

// clear takes the bar away, so that results do not stand behind it.
func (m *meter) clear() {
	if m.bar != nil {
		_ = m.bar.Clear()
		m.bar = nil
	}
}

// String gives "fetching 1.2 GiB of 4.0 GiB, 310 MiB/s, 3 sources, 9s left".
func (s step) String() string {
	of := fmt.Sprintf("%s of %s", size(s.done), size(s.total))
	switch {
	case s.open:
		of = size(s.done)
	case s.unit != "":
		of = fmt.Sprintf("%d of %s", s.done, plural(s.total, s.unit))
	}
	parts := []string{s.label + " " + of}
	if s.rate >= 1 {
		parts = append(parts, rate(s.rate))
	}
	if s.note != "" {
		parts = append(parts, s.note)
	}
	if s.rate >= 1 && s.done < s.total {
		left := time.Duration(float64(s.total-s.done) / s.rate * float64(time.Second))
		parts = append(parts, left.Round(time.Second).String()+" left")
	}
	return strings.Join(parts, ", ")
}
