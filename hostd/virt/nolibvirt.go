//go:build !libvirt_dlopen

package virt

import "fmt"

// startEvents says that this program cannot load libvirt.
func startEvents() (release func(), err error) {
	return nil, fmt.Errorf("%w: built without it; build with -tags libvirt_dlopen", ErrNoLibvirt)
}

func dial(string, func(eventKind, string, string), func()) (conn, error) {
	_, err := startEvents()
	return nil, err
}
