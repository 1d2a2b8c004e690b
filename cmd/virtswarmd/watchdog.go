package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd"
)

// watch tells systemd's watchdog, if it is set, that this daemon works, until ctx ends: its API answers, and its catalogue
// can be read. A process that merely exists tells nothing. What hangs is ended by systemd, and started again.
func watch(ctx context.Context, host *hostd.Host, socket string, logger hclog.Logger) {
	patience, err := daemon.SdWatchdogEnabled(false)
	if err != nil || patience == 0 {
		return
	}
	tick := time.NewTicker(patience / 3)
	defer tick.Stop()
	for {
		trial, cancel := context.WithTimeout(ctx, patience/3)
		err := works(trial, host, socket)
		cancel()
		if err == nil {
			notify(logger, daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			logger.Warn("this daemon does not answer itself", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// works asks the daemon over its own socket for anything, and for its catalogue.
func works(ctx context.Context, host *hostd.Host, socket string) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://virtswarmd/", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("ask the API: %w", err)
	}
	resp.Body.Close()
	return host.Responds(ctx)
}
