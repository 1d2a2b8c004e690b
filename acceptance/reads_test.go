package acceptance

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"
)

// readPause is between two reads of one host: each is a program that starts.
const readPause = 250 * time.Millisecond

// domainsRead is an answer of guests --json, with when it was asked for and when it had come.
type domainsRead struct {
	host     string
	from, to time.Time

	Staleness struct {
		Stale bool   `json:"stale"`
		Index uint64 `json:"index"`
	} `json:"staleness"`
	Guests []struct {
		guest
		Index uint64 `json:"index"` // of the last change of what is shown
	} `json:"guests"`
}

// readDomains asks hosts for the domains, again and again, until stop, which returns what they answered that they do
// not call stale themselves.
func (l *lab) readDomains() (stop func() []domainsRead) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var all []domainsRead
	var readers sync.WaitGroup
	for _, h := range l.hosts {
		readers.Go(func() {
			for ctx.Err() == nil {
				r := domainsRead{host: h.name, from: time.Now()}
				answer := h.run("guests", "--json") // which fails while the daemon does not run
				r.to = time.Now()
				if answer.code == 0 && json.Unmarshal([]byte(answer.stdout), &r) == nil && !r.Staleness.Stale {
					mu.Lock()
					all = append(all, r)
					mu.Unlock()
				}
				select {
				case <-ctx.Done():
				case <-time.After(readPause):
				}
			}
		})
	}
	return func() []domainsRead {
		cancel()
		readers.Wait()
		return all
	}
}

// linearizable checks what was read of domains while they moved. As each state of the catalogue has its number, that is
// less than a search for an order: whoever asks after another has had an answer is given none that is older, neither of
// the whole nor of one domain, and one number means one thing to all who read it or watched.
func linearizable(t *testing.T, reads []domainsRead, heard []guestEvent) {
	t.Helper()
	type key struct {
		uuid  string
		index uint64
	}
	type place struct{ host, state string }
	meaning := map[key]place{}
	means := func(by, uuid string, index uint64, host, state string) {
		k, p := key{uuid, index}, place{host, state}
		if before, known := meaning[k]; known && before != p {
			t.Errorf("%s has domain %s at index %d %s on %s, another one has it %s on %s", by, uuid, index, state, host, before.state, before.host)
		}
		meaning[k] = p
	}
	for _, e := range heard {
		if e.Guest != nil && !e.Gone && !e.Initial {
			means("the watcher", e.Guest.UUID, e.Index, e.Guest.Host, e.Guest.State)
		}
	}
	for i, r := range reads {
		shown := map[string]uint64{}
		for _, g := range r.Guests {
			means(r.host, g.UUID, g.Index, g.Host, g.State)
			shown[g.UUID] = g.Index
		}
		for _, before := range reads[:i] {
			if !before.to.Before(r.from) {
				continue
			}
			if before.Staleness.Index > r.Staleness.Index {
				t.Errorf("%s answers with index %d after %s has answered with %d", r.host, r.Staleness.Index, before.host, before.Staleness.Index)
			}
			for _, g := range before.Guests {
				if now, known := shown[g.UUID]; known && now < g.Index {
					t.Errorf("%s has %s as of index %d after %s has had it as of %d", r.host, g.Name, now, before.host, g.Index)
				}
			}
		}
	}
	t.Logf("%d reads, %d states of domains", len(reads), len(meaning))
}
