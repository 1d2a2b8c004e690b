//go:build libvirt_dlopen

package virt

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

// load loads a library for good. It returns NULL, or why it cannot.
static char *load(const char *name) {
	if (dlopen(name, RTLD_NOW | RTLD_LOCAL))
		return NULL;
	return strdup(dlerror());
}
*/
import "C"

import (
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"libvirt.org/go/libvirt"
)

const (
	// A timer wakes the loop when it is to end. libvirt frees what is closed in a round in which nothing else is to be
	// done, so it gets some.
	lastRounds = 3
	roundPause = 2 // milliseconds
	errorPause = 100 * time.Millisecond
)

// eventLoop is libvirt's. A process has one, which must be there before its first connection.
type eventLoop struct {
	mu    sync.Mutex
	ready bool // libvirt is loaded and has the loop
	users int
	stop  chan struct{} // closed to end the goroutine that runs it
	ended chan struct{} // closed by that
}

var events eventLoop

// startEvents loads libvirt and lets its event loop run until release is called by everybody who started it. Who has
// connections closes them first. An error wraps ErrNoLibvirt; libvirt may be there when it is tried again.
func startEvents() (release func(), err error) {
	l := &events
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.prepare(); err != nil {
		return nil, err
	}
	if l.users++; l.users == 1 {
		l.stop, l.ended = make(chan struct{}), make(chan struct{})
		go turn(l.stop, l.ended)
	}
	return sync.OnceFunc(l.release), nil
}

// prepare loads libvirt. The binding would do so by itself, but would not look again once it has not found it.
func (l *eventLoop) prepare() error {
	if l.ready {
		return nil
	}
	for _, lib := range []string{"libvirt.so.0", "libvirt-admin.so.0"} {
		name := C.CString(lib)
		why := C.load(name)
		C.free(unsafe.Pointer(name))
		if why != nil {
			defer C.free(unsafe.Pointer(why))
			return fmt.Errorf("%w: to have its domains watched, install libvirt's client library (libvirt0 or libvirt-libs): %s", ErrNoLibvirt, C.GoString(why))
		}
	}
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return fmt.Errorf("%w: start its event loop: %w", ErrNoLibvirt, err)
	}
	l.ready = true
	return nil
}

func (l *eventLoop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	close(l.stop)
	// The loop sleeps in poll: a timer wakes it.
	timer, err := libvirt.EventAddTimeout(roundPause, func(int) {})
	if err != nil {
		return // it ends at the next event
	}
	<-l.ended
	_ = libvirt.EventRemoveTimeout(timer)
	_ = libvirt.EventRunDefaultImpl() // frees the timer
}

// turn runs the loop until stop is closed, and then some rounds more.
func turn(stop, ended chan struct{}) {
	defer close(ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for last := 0; last < lastRounds; {
		if err := libvirt.EventRunDefaultImpl(); err != nil {
			time.Sleep(errorPause) // it must not spin
		}
		select {
		case <-stop:
			last++
		default:
		}
	}
}
