package qmp

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

// Config says what a Watcher watches.
type Config struct {
	// Paths are QMP sockets, and directories whose entries named *.sock and *.qmp are. They need not exist yet. A
	// directory should have no sockets of other protocols, for each is connected to.
	Paths []string
	// Host goes into the UUIDs of guests that have none of their own, see Guest: two hosts may use the same paths.
	Host   string
	Logger hclog.Logger // nil = none
}

// Watcher keeps the picture of the guests. Its methods may be used by several goroutines.
type Watcher struct {
	paths []string
	host  string
	log   hclog.Logger
	times times

	mu      sync.Mutex
	seats   map[string]seat // by socket
	unclear map[string]bool // sockets of which it is not known yet which guest they are, if any
	guests  []Guest         // sorted; replaced, never changed
	changed chan struct{}
}

// seat is a guest and the connection that it is seen by.
type seat struct {
	guest   Guest
	session *session // nil while the guest is silent
}

// New makes a Watcher, which sees nothing before it runs.
func New(cfg Config) *Watcher {
	w := &Watcher{host: cfg.Host, log: cfg.Logger, times: usual, seats: map[string]seat{}, unclear: map[string]bool{}, changed: make(chan struct{})}
	if w.log == nil {
		w.log = hclog.NewNullLogger()
	}
	for _, p := range cfg.Paths {
		if abs, err := filepath.Abs(p); err == nil {
			p = abs
		}
		w.paths = append(w.paths, p)
	}
	return w
}

// Guests returns the guests whose processes live, sorted by UUID. Where two processes claim one UUID, it has the one that is
// not the other end of a migration. The slice and all in it are to be read only. When Run ends, the last picture stays.
func (w *Watcher) Guests() []Guest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.guests
}

// Changed returns a channel that is closed when what Guests returns changes next. Call it before Guests to miss
// nothing.
func (w *Watcher) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// show puts what a session saw into the picture.
func (w *Watcher) show(path string, g Guest, s *session) {
	g.Socket = path
	if g.UUID == "" || g.UUID == noUUID {
		g.UUID = nameUUID("unix://" + w.host + path)
	}
	if g.Name == "" {
		g.Name = socketName(path)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seats[path] = seat{g, s}
	w.draw()
}

// silence keeps a guest in the picture that does not answer any more.
func (w *Watcher) silence(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.seats[path]; ok {
		s.guest.Silent, s.session = true, nil
		w.seats[path] = s
		w.draw()
	}
}

// unsettle notes that nobody knows yet which guest a socket is; settle, that it is known, or that it is none.
func (w *Watcher) unsettle(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unclear[path] = true
}

func (w *Watcher) settle(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.unclear[path] {
		return
	}
	delete(w.unclear, path)
	if len(w.unclear) == 0 {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// Settled reports whether every socket that takes connections has said which guest it is. As long as one says nothing,
// a guest that is missing in the picture may be that one.
func (w *Watcher) Settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.unclear) == 0
}

func (w *Watcher) hide(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.seats, path)
	w.draw()
}

// draw derives the picture; it is called with mu held.
func (w *Watcher) draw() {
	guests := make([]Guest, 0, len(w.seats))
	for _, s := range w.seats {
		guests = append(guests, s.guest)
	}
	slices.SortFunc(guests, Guest.compare)
	guests = slices.CompactFunc(guests, func(a, b Guest) bool { return a.UUID == b.UUID })
	if slices.EqualFunc(guests, w.guests, Guest.Equal) {
		return
	}
	w.guests = guests
	close(w.changed)
	w.changed = make(chan struct{})
}

// session returns the connection to a guest.
func (w *Watcher) session(uuid string) (*session, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.guests {
		if s := w.seats[g.Socket].session; g.UUID == uuid && s != nil {
			return s, nil
		} else if g.UUID == uuid {
			return nil, ErrSilent
		}
	}
	return nil, ErrNoGuest
}

// Run watches until ctx ends, and returns when all connections are closed. It is for one call.
func (w *Watcher) Run(ctx context.Context) {
	l := &lookout{w: w, members: map[string]*member{}, ended: make(chan string), said: map[string]bool{}}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		l.complain("cannot watch the file system; looking now and then", "error", err)
		notify = &fsnotify.Watcher{} // its channels are nil
	} else {
		defer notify.Close()
		l.notify = notify
	}
	rescan := time.NewTicker(w.times.rescan)
	defer rescan.Stop()
	l.scan(ctx)
	var settle <-chan time.Time
	soon := func() {
		if settle == nil { // so that many changes do not put it off for ever
			settle = time.After(w.times.settle)
		}
	}
	for {
		select {
		case e := <-notify.Events:
			if l.relevant(e.Name) {
				if m := l.members[e.Name]; m != nil && e.Has(fsnotify.Create) {
					m.retry()
				}
				soon()
			}
		case <-notify.Errors: // events may be lost
			soon()
		case <-settle:
			settle = nil
			l.scan(ctx)
		case <-rescan.C:
			l.scan(ctx)
		case path := <-l.ended:
			delete(l.members, path)
			soon() // it may have been made anew meanwhile
		case <-ctx.Done():
			for range l.members {
				<-l.ended
			}
			return
		}
	}
}

// lookout finds the sockets and has a member for each. It belongs to Run's goroutine.
type lookout struct {
	w       *Watcher
	notify  *fsnotify.Watcher // nil if there is none
	members map[string]*member
	ended   chan string
	said    map[string]bool
}

// complain logs what is wrong with the paths, once.
func (l *lookout) complain(msg string, args ...any) {
	if key := msg + fmt.Sprint(args...); !l.said[key] && len(l.said) < maxSockets {
		l.said[key] = true
		l.w.log.Warn(msg, args...)
	}
}

func named(path string) bool {
	ext := filepath.Ext(path)
	return ext == ".sock" || ext == ".qmp"
}

// relevant tells whether a change of a path may have to do with a socket.
func (l *lookout) relevant(path string) bool {
	return slices.Contains(l.w.paths, path) || named(path) && slices.Contains(l.w.paths, filepath.Dir(path))
}

// scan starts a member for each socket that has none. Those of sockets that are gone end by themselves.
func (l *lookout) scan(ctx context.Context) {
	found := map[string]bool{}
	for _, p := range l.w.paths {
		l.watch(filepath.Dir(p)) // where it will appear, and appear again
		info, err := os.Stat(p)
		switch {
		case err != nil:
		case info.IsDir():
			l.watch(p)
			l.scanDir(p, found)
		case info.Mode().Type() == os.ModeSocket:
			found[p] = true
		default:
			l.complain("path is neither a socket nor a directory", "path", p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(found)) {
		if l.members[p] != nil {
			continue
		}
		if len(l.members) == maxSockets {
			l.complain("too many QMP sockets; some are not watched", "limit", maxSockets)
			return
		}
		l.start(ctx, p)
	}
}

func (l *lookout) watch(dir string) {
	if l.notify == nil {
		return
	}
	if err := l.notify.Add(dir); err != nil && !os.IsNotExist(err) {
		l.complain("cannot watch directory; looking now and then", "path", dir, "error", err)
	}
}

func (l *lookout) scanDir(dir string, found map[string]bool) {
	f, err := os.Open(dir)
	if err != nil {
		l.complain("cannot read directory", "path", dir, "error", err)
		return
	}
	defer f.Close()
	names, err := f.Readdirnames(maxEntries)
	if err != nil && err != io.EOF {
		l.complain("cannot read directory", "path", dir, "error", err)
	}
	if len(names) == maxEntries {
		l.complain("directory has too many entries; some are not looked at", "path", dir, "limit", maxEntries)
	}
	for _, name := range names {
		p := filepath.Join(dir, name)
		if !named(p) {
			continue
		}
		if info, err := os.Stat(p); err == nil && info.Mode().Type() == os.ModeSocket {
			found[p] = true
		}
	}
}

func (l *lookout) start(ctx context.Context, path string) {
	m := &member{w: l.w, path: path, log: l.w.log.With("socket", path), poke: make(chan struct{}, 1)}
	l.members[path] = m
	go func() {
		m.run(ctx)
		l.ended <- path
	}()
}

// retry makes a member that waits try again now.
func (m *member) retry() {
	select {
	case m.poke <- struct{}{}:
	default:
	}
}
