package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// awaitsAfter is how long a start waits for a file before the catalogue hears of it: most never do.
const awaitsAfter = time.Second

// ErrCancelled is why a start ends whose wait an operator has ended.
var ErrCancelled = errors.New("an operator cancelled the start")

// Starts are the starts of domains that wait for their files on this host. The zero value has none. It is safe for
// concurrent use.
type Starts struct {
	// Changed, if set, is called when Waiting has changed. It is set before the first start.
	Changed func()

	mu      sync.Mutex
	waiting map[*waitingStart]struct{}
}

type waitingStart struct {
	name, uuid string
	cancel     context.CancelCauseFunc
	file       string // "" until it has waited for awaitsAfter
}

// begin notes a start. The context that it returns ends when an operator cancels the start; end must be called.
func (s *Starts) begin(ctx context.Context, name, uuid string) (_ context.Context, w *waitingStart, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w = &waitingStart{name: name, uuid: strings.ToLower(uuid), cancel: cancel}
	s.mu.Lock()
	if s.waiting == nil {
		s.waiting = map[*waitingStart]struct{}{}
	}
	s.waiting[w] = struct{}{}
	s.mu.Unlock()
	return ctx, w, func() {
		s.mu.Lock()
		delete(s.waiting, w)
		told := w.file != ""
		s.mu.Unlock()
		cancel(nil)
		if told {
			s.changed()
		}
	}
}

// awaits notes for which file a start waits.
func (s *Starts) awaits(w *waitingStart, file string) {
	s.mu.Lock()
	was := w.file
	w.file = file
	s.mu.Unlock()
	if was != file {
		s.changed()
	}
}

func (s *Starts) changed() {
	if s.Changed != nil {
		s.Changed()
	}
}

// Waiting returns the name of the file that each domain's start waits for, by UUID.
func (s *Starts) Waiting() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := map[string]string{}
	for w := range s.waiting {
		if w.file != "" {
			files[w.uuid] = w.file
		}
	}
	return files
}

// cancel ends the waits of a domain's starts, by name or UUID, and reports whether there were any.
func (s *Starts) cancel(domain string) (found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.waiting {
		if w.name == domain || w.uuid == strings.ToLower(domain) {
			w.cancel(reason.Wrap(reason.Interrupted, fmt.Sprintf("domain %.200q", w.name), ErrCancelled).
				WithHint("start it again when it suits you: what has come stays"))
			found = true
		}
	}
	return found
}

// CancelStart ends the wait of a domain's start for its files, by name or UUID: libvirt refuses the start. host is where
// it waits, by name or id; "" is this host, if it waits here, else the one where the catalogue has the domain. It returns
// the name of the host where it waited.
func (g *Guests) CancelStart(ctx context.Context, domain, host string) (at string, err error) {
	if host == "" && g.Starts.cancel(domain) {
		return g.Name, nil
	}
	to, err := g.startsAt(ctx, domain, host)
	switch {
	case err != nil:
		return "", err
	case to.ID != g.Self:
		return to.Name, g.Peers.CancelStart(ctx, to, domain)
	case g.Starts.cancel(domain):
		return g.Name, nil
	}
	return "", reason.Wrap(reason.NoSuchGuest, fmt.Sprintf("%.200q", domain), fmt.Errorf("no start of it waits for files on %s", g.Name)).
		WithHint("see which domains wait, and where: virtswarm guests")
}

// startsAt finds the host that an operation on a domain's start means: the one that is named, or where the domain is.
func (g *Guests) startsAt(ctx context.Context, domain, host string) (placement.Host, error) {
	if host != "" {
		return g.hostNamed(host)
	}
	g.fresh(ctx)
	v, err := g.guestNamed(domain)
	if err != nil {
		return placement.Host{}, err
	}
	at, err := g.host(v.Host)
	return at, reason.Explain(err, v.Name)
}

// Prefetch makes present what a domain needs, by name or UUID, on a host before anybody starts it there, or lets it
// migrate to there: by name or id; "" is where the domain is.
func (g *Guests) Prefetch(ctx context.Context, domain, host string, report func(PrepareProgress) error) error {
	to, err := g.startsAt(ctx, domain, host)
	if err != nil {
		return err
	}
	if to.ID != g.Self {
		return g.Peers.Prefetch(ctx, to, domain, report)
	}
	g.fresh(ctx)
	v, err := g.guestNamed(domain)
	if err != nil {
		return err
	}
	return g.makePresent(ctx, v.Domain, report, func(string) {})
}
