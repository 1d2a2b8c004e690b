package swarm

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sampleEvery is how often a trace asks each daemon. It costs the daemons CPU: a traced run is none to quote.
const sampleEvery = 250 * time.Millisecond

// traced are the metrics of a daemon that a trace writes down, by the heading of their column.
var traced = []struct{ column, metric string }{
	{"received", "virtswarm_swarm_received_bytes_total"},
	{"sent", "virtswarm_swarm_sent_bytes_total"},
	{"duplicates", "virtswarm_swarm_duplicate_chunks_total"},
	{"stalls", "virtswarm_swarm_stalls_total"},
	{"cpu", "process_cpu_seconds_total"},
}

// tracePath is a file of this trial that stays.
func (t *attempt) tracePath(name string) string {
	dir := filepath.Join(t.opts.out, "trace-"+t.name)
	os.MkdirAll(dir, 0o755) // if that fails, the file cannot be made
	return filepath.Join(dir, name)
}

// trace writes one line for each host and time: seconds, host, and what its metrics say.
func (c *cluster) trace() (stop func(), err error) {
	f, err := os.Create(c.tracePath("progress.tsv"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer f.Close()
		fmt.Fprint(f, "seconds\thost")
		for _, m := range traced {
			fmt.Fprint(f, "\t", m.column)
		}
		fmt.Fprintln(f)
		every := time.NewTicker(sampleEvery)
		defer every.Stop()
		for start := time.Now(); ; {
			for _, m := range append([]*member{c.publisher}, c.receivers...) {
				if v, err := m.metrics(ctx); err == nil { // a host may be dead on purpose
					fmt.Fprintf(f, "%.2f\t%s", time.Since(start).Seconds(), m.host.Name)
					for _, t := range traced {
						fmt.Fprintf(f, "\t%g", v[t.metric])
					}
					fmt.Fprintln(f)
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
		}
	}()
	return func() { cancel(); <-ended }, nil
}

// metrics reads a daemon's metrics; those with labels are summed up.
func (m *member) metrics(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", m.socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://virtswarm/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		sample, value, _ := strings.Cut(lines.Text(), " ")
		name, _, _ := strings.Cut(sample, "{")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] += v
		}
	}
	return values, nil
}
