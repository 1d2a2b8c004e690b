package hostd

import (
	"net"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// fewDescriptors is a limit below which a busy host runs out of them: 256 data files, and connections of as many hosts.
const fewDescriptors = 1024

// warnOfFewDescriptors looks at the limit of this process, which Go has raised as far as it may.
func (h *Host) warnOfFewDescriptors() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < fewDescriptors {
		h.log.Warn("this process may have few files and connections open at a time; raise LimitNOFILE in its unit", "limit", limit.Cur)
	}
}

// frugal is the host's file system for all but the store, which gives up files that nobody uses when none can be
// opened.
func (h *Host) frugal() disk.FS { return disk.Frugal{FS: h.fs, Relieve: h.store.Relieve} }

// relieving is a listener whose connections come before files that nobody uses.
type relieving struct {
	net.Listener
	host *Host
}

// Accept implements net.Listener.
func (l relieving) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if disk.Exhausted(err) && l.host.store.Relieve() > 0 {
		conn, err = l.Listener.Accept()
	}
	return conn, err
}

// relieveListeners has all listeners that are there relieve. It is called once the store is open.
func (h *Host) relieveListeners() {
	for _, l := range []*net.Listener{&h.ports.Unix, &h.ports.Metrics} {
		if *l != nil {
			*l = relieving{*l, h}
		}
	}
}
