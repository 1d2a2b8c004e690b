package virt

import "sync"

// maxDirty bounds the domains that wait to be read; if there are more, all are.
const maxDirty = 4096

// inbox is what events leave behind: which domains to look at again. They come on libvirt's thread, which must not
// wait.
type inbox struct {
	wake chan struct{} // has a token if there is something in it

	mu    sync.Mutex
	dirty map[string]struct{}
	all   bool
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), dirty: map[string]struct{}{}}
}

// add notes a domain, or all of them if it is "".
func (b *inbox) add(uuid string) {
	b.mu.Lock()
	if uuid == "" || len(b.dirty) >= maxDirty {
		b.all = true
	} else {
		b.dirty[uuid] = struct{}{}
	}
	b.mu.Unlock()
	b.nudge()
}

// nudge wakes who reads the inbox.
func (b *inbox) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties it.
func (b *inbox) take() (dirty map[string]struct{}, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	dirty, all = b.dirty, b.all
	b.dirty, b.all = map[string]struct{}{}, false
	return dirty, all
}
