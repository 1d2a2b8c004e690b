//go:build !libvirt_dlopen

package virt

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestBuiltWithoutLibvirt(t *testing.T) {
	w, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	for err = ErrDisconnected; errors.Is(err, ErrDisconnected); { // until it has tried
		<-time.After(time.Millisecond)
		err = w.Plug(ctx, someUUID, "<disk/>")
	}
	if !errors.Is(err, ErrNoLibvirt) {
		t.Errorf("plug: %v", err)
	}
	if _, known := w.Domains(); known || w.Connected() {
		t.Error("domains are known")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
