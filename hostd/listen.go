package hostd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// addressEvery is how often a machine without an address is asked whether it has one.
const addressEvery = time.Second

// listen takes the port and the local listeners, and settles the address that other hosts are told. What it took, close
// gives back.
func (h *Host) listen(ctx context.Context, local func() (net.Listener, error)) (err error) {
	if h.port, err = h.network.Listen(ctx, "tcp://"+h.cfg.Listen); err != nil {
		return listenError("listen", h.cfg.Listen, err)
	}
	h.advertise, h.picked, err = h.cfg.advertise(h.port.Addr())
	if told := h.toldAddress(); errors.Is(err, errNoAddress) && told != "" {
		h.log.Warn("this machine has no address yet: it goes by the one it had", "address", told)
		h.advertise, h.picked, h.adrift, err = told, true, true, nil
	}
	if err != nil {
		return err
	}
	if h.ports.Unix, err = local(); err != nil {
		return socketError(err)
	}
	if h.cfg.Metrics != "" {
		if h.ports.Metrics, err = h.network.Listen(ctx, "tcp://"+h.cfg.Metrics); err != nil {
			return listenError("metrics", h.cfg.Metrics, err)
		}
	}
	return nil
}

// toldAddress is where the others know this host to be, if it is a member that listens at the same port as then.
func (h *Host) toldAddress() string {
	if _, err := h.loadIdentity(); err != nil {
		return "" // identify says why
	}
	told, err := h.toldSettings()
	if err != nil {
		return "" // introduce says why
	}
	_, was, err := net.SplitHostPort(told.Address)
	if _, now, err2 := net.SplitHostPort(h.port.Addr().String()); err != nil || err2 != nil || was != now {
		return ""
	}
	return told.Address
}

// awaitAddress waits until a machine that had no address at the start has one. The error says that it is not the one that
// this host has gone by since: the others hear of it at the next start.
func (h *Host) awaitAddress(ctx context.Context) error {
	tick := time.NewTicker(addressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		switch addr, _, err := h.cfg.advertise(h.port.Addr()); {
		case errors.Is(err, errNoAddress):
		case err != nil:
			return err
		case isOwn(h.advertise):
			return nil
		default:
			return reason.Wrap(reason.Unreachable, h.advertise, fmt.Errorf("this machine's address has become %s", addr)).
				WithHint("start the daemon again, which tells the others")
		}
	}
}

// listenError says why an address cannot be had. Early in a boot the machine may not have it yet: a reason that systemd
// answers with another start.
func listenError(key, addr string, err error) error {
	if _, unknown := errors.AsType[*net.DNSError](err); unknown || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return reason.Wrap(reason.Unreachable, addr, err).WithHint("give this machine the address, or correct it in the configuration (" + key + ")")
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return reason.Wrap(reason.AddressInUse, addr, err).WithHint("stop what listens there, or choose another address in the configuration (" + key + ")")
	}
	return fmt.Errorf("%w: %s: %w", ErrConfig, key, err)
}

// socketError says why the local socket cannot be had.
func socketError(err error) error {
	if errors.Is(err, server.ErrAlreadyRunning) {
		return err
	}
	return fmt.Errorf("%w: socket: %w", ErrConfig, err)
}

// listenSocket listens at the unix socket, whose directory it makes.
func listenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(disk.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	return server.ListenUnix(path)
}
