package virt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// libvirtd takes five calls of one connection at a time and then listens to nothing from it, not even keepalive; there
	// are never that many.
	maxReaders  = 2 // calls that read
	maxChanging = 2 // calls that change something

	maxDomains = 16384            // of one host: libvirt lists no more
	roundTime  = 15 * time.Second // after which a reconcile counts as done although some domains have not answered
	soon       = time.Second      // after which a domain that migrates, or could not be read, is read again
)

// loop owns what is to be read, for as long as one connection lasts.
type loop struct {
	*Watcher
	s       *session
	dirty   map[string]struct{} // to be read
	busy    map[string]struct{} // being read; "" is the list
	listing bool                // the list is to be read
	results chan result
	over    chan struct{} // closed when nobody takes results any more

	began   time.Time           // of the reconcile that is under way; zero if none is
	waiting map[string]struct{} // of its domains, those not read yet
	late    *time.Timer         // when it counts as done
	soon    map[string]struct{} // to be read again soon
	again   *time.Timer         // when
	said    map[string]string   // of domains that could not be read, why, as it was logged; "" is the list
}

// result is what came of one call; uuid is "" for the list.
type result struct {
	uuid string
	list []string
	def  *Definition
	said reading
	err  error
}

func newLoop(w *Watcher, s *session) *loop {
	l := &loop{Watcher: w, s: s, dirty: map[string]struct{}{}, busy: map[string]struct{}{}, results: make(chan result),
		over: make(chan struct{}), late: time.NewTimer(roundTime), soon: map[string]struct{}{}, again: time.NewTimer(soon),
		said: map[string]string{}}
	l.late.Stop()
	l.again.Stop()
	return l
}

// run watches until the connection is lost, or ctx is done.
func (l *loop) run(ctx context.Context) {
	reconcile := time.NewTicker(l.cfg.Reconcile)
	defer reconcile.Stop()
	defer l.again.Stop()
	defer l.late.Stop()
	defer close(l.over)
	files, stop := l.watchFiles()
	defer stop()
	for l.listing = true; ; {
		l.start()
		select {
		case e := <-files.Events:
			l.wrote(e)
		case <-files.Errors: // some may be lost
			l.listing = true
		case <-ctx.Done():
			return
		case <-l.s.gone:
			return
		case <-reconcile.C:
			l.listing = true
		case <-l.late.C:
			l.endRound(len(l.waiting))
		case <-l.inbox.wake:
			l.collect()
		case <-l.again.C:
			for uuid := range l.soon {
				l.mark(uuid)
			}
			clear(l.soon)
		case r := <-l.results:
			if !l.take(r) {
				return
			}
		}
	}
}

// watchFiles watches the directory in which libvirt's QEMU driver keeps the state of each domain that runs: what changes
// without an event, such as the images of its disks by an external snapshot, is written there. Where there is none, a
// reconcile finds out.
func (l *loop) watchFiles() (files *fsnotify.Watcher, stop func() error) {
	files, err := fsnotify.NewWatcher()
	if err == nil {
		if err = files.Add(l.cfg.files); err == nil {
			return files, files.Close
		}
		_ = files.Close()
	}
	l.log.Debug("cannot watch the files of libvirt: what has no event is seen later", "error", err)
	return &fsnotify.Watcher{}, func() error { return nil } // its channels are nil
}

// wrote marks the domain whose file libvirt has written.
func (l *loop) wrote(e fsnotify.Event) {
	name, ok := strings.CutSuffix(filepath.Base(e.Name), ".xml")
	if !ok || !e.Has(fsnotify.Create) && !e.Has(fsnotify.Write) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for uuid, d := range l.domains {
		if d.Name == name {
			l.mark(uuid)
		}
	}
}

// collect takes what events left behind.
func (l *loop) collect() {
	dirty, all := l.inbox.take()
	if all {
		l.mark("")
	}
	for uuid := range dirty {
		l.mark(uuid)
	}
}

// mark notes what is to be read: a domain, or the list.
func (l *loop) mark(uuid string) {
	if uuid == "" {
		l.listing = true
		return
	}
	l.dirty[uuid] = struct{}{}
}

// later marks it after a while.
func (l *loop) later(uuid string) {
	if len(l.soon) == 0 {
		l.again.Reset(soon)
	}
	l.soon[uuid] = struct{}{}
}

// start begins as many calls as there are slots.
func (l *loop) start() {
	if _, busy := l.busy[""]; l.listing && !busy && l.call("", l.readList) {
		l.listing = false
	}
	for uuid := range l.dirty {
		// One that is being read is read again afterwards: what is on its way may be older than the event.
		if _, busy := l.busy[uuid]; busy {
			continue
		}
		if !l.call(uuid, l.readDomain) {
			return
		}
		delete(l.dirty, uuid)
	}
}

// call runs a call on a goroutine, if there is a slot. A call that hangs keeps its slot also when its connection is
// given up, so that there are never more of them.
func (l *loop) call(uuid string, read func(uuid string) result) bool {
	select {
	case l.readers <- struct{}{}:
	default:
		return false // whoever frees one wakes the inbox
	}
	if !l.s.enter() {
		<-l.readers
		return false
	}
	l.busy[uuid] = struct{}{}
	go func() {
		r := read(uuid)
		l.s.leave()
		select {
		case l.results <- r:
		case <-l.over:
		}
		<-l.readers
		l.inbox.nudge()
	}()
	return true
}

func (l *loop) readList(string) result {
	list, err := l.s.conn.list()
	return result{list: list, err: err}
}

func (l *loop) readDomain(uuid string) result {
	said, err := l.s.conn.read(uuid)
	if err != nil {
		return result{uuid: uuid, err: err}
	}
	def, err := ParseDomain([]byte(said.xml))
	if err == nil && def.UUID != uuid {
		err = fmt.Errorf("libvirt says it is domain %.80q: %w", def.UUID, ErrBadXML)
	}
	if err != nil {
		return result{uuid: uuid, err: err}
	}
	def.State, def.Migration = said.state, said.migration
	if !def.State.Active() {
		def.CID = 0 // it stopped after the XML was read
	}
	l.headers.complete(&def)
	return result{uuid: uuid, def: &def, said: said}
}

// take draws the consequences of a call. It returns false if the connection is of no use any more.
func (l *loop) take(r result) bool {
	delete(l.busy, r.uuid)
	if r.err != nil && !errors.Is(r.err, ErrNoDomain) && !l.s.conn.alive() {
		return false
	}
	switch {
	case errors.Is(r.err, ErrNoDomain):
		l.drop(r.uuid)
	case errors.Is(r.err, ErrBadXML):
		// Nothing valid can be said of it, so nothing is; the next reconcile looks again.
		l.complain("domain left out", r)
		l.drop(r.uuid)
	case r.err != nil:
		l.complain("could not read domains: keeping what was known", r)
		l.later(r.uuid)
	case r.uuid == "":
		l.beginRound(r.list)
	default:
		if l.put(r.def, r.said) {
			l.later(r.uuid) // no event says when that is over
		}
	}
	if r.err == nil || errors.Is(r.err, ErrNoDomain) {
		delete(l.said, r.uuid)
	}
	if r.uuid != "" {
		delete(l.waiting, r.uuid)
	}
	if !l.began.IsZero() && len(l.waiting) == 0 {
		l.endRound(0)
	}
	return true
}

// complain says why something could not be read, once for each reason.
func (l *loop) complain(what string, r result) {
	if text := r.err.Error(); l.said[r.uuid] != text {
		l.said[r.uuid] = text
		l.log.Error(what, "uuid", r.uuid, "error", r.err)
	}
}

// beginRound marks every domain that there is, and those that are shown, to find out whether they still are.
func (l *loop) beginRound(list []string) {
	if len(list) > maxDomains {
		l.log.Error("too many domains: showing some", "domains", len(list), "limit", maxDomains)
		list = list[:maxDomains]
	}
	l.began, l.waiting = time.Now(), map[string]struct{}{}
	l.late.Reset(roundTime)
	for _, uuid := range append(list, l.uuids()...) {
		l.mark(uuid)
		l.waiting[uuid] = struct{}{}
	}
}

// endRound ends a reconcile; some domains may not have answered.
func (l *loop) endRound(silent int) {
	if l.began.IsZero() {
		return
	}
	if silent > 0 {
		l.log.Warn("some domains have not answered: keeping what was known of them", "domains", silent)
	}
	l.metrics.reconcile.Observe(time.Since(l.began).Seconds())
	l.began, l.waiting = time.Time{}, nil
	l.late.Stop()
	l.setKnown()
}
