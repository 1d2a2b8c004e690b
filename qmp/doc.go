// Package qmp sees the QEMU processes of this host that libvirt does not manage, through their QMP sockets: which there
// are, what each runs on, and what changes; and it plugs devices into them and unplugs them.
//
// A [Watcher] looks after the sockets at some paths. It promises that a [Guest] is in its picture soon after its socket
// answers, leaves it at once when its process ends, and that whatever one peer does (say nothing, nonsense or too
// much, stop in the middle, come and go) costs bounded memory and time and changes nothing for the others. What a
// guest's picture says is the word of that QEMU process: who grants anything by it must settle for himself what happens
// when two processes claim the same.
//
// A QEMU monitor serves one client at a time, and a Watcher keeps the monitors that it has. Give QEMU a socket for it
// alone, and another for everybody else:
//
//	qemu-system-x86_64 … -qmp unix:/run/qemu/web.qmp,server=on,wait=off
//
// Commands and events have the types of github.com/digitalocean/go-qemu/qmp; connections do not use its SocketMonitor.
// That one dials for itself and waits for ever, for a greeting of any size and for every reply. What is worse, and what
// no guard in front of it could mend: it reads lines of 64 KiB at most, and a guest's disks may take more; it
// overwrites a reply with what comes next while its caller decodes it; and it knows replies by their order alone, so
// that one which comes late is taken for the next one's. The protocol is that of QEMU's docs/interop/qmp-spec, QEMU 6.0
// or newer.
package qmp

import (
	"errors"
	"time"

	"github.com/virtswarm/virtswarm/internal/reason"
)

var (
	// ErrNoGuest: no guest of that UUID is in the picture.
	ErrNoGuest = reason.Sentinel(reason.NoSuchGuest, "no QEMU with this UUID answers on a QMP socket")
	// ErrEnded: the connection to QEMU ended; it exited, most often.
	ErrEnded = errors.New("QEMU's connection ended")
	// ErrNotQMP: what came is not the QEMU Machine Protocol.
	ErrNotQMP = errors.New("the peer does not speak QMP")
	// ErrTooLarge: the peer says more than a limit of this package allows.
	ErrTooLarge = errors.New("the peer says too much")
	// ErrSilent: the peer did not answer in time, or stopped in the middle of a message.
	ErrSilent = reason.Sentinel(reason.NoGuestLink, "QEMU does not answer")
	// ErrRefused: QEMU refused a command; the error has its words.
	ErrRefused = reason.Sentinel(reason.NoGuestLink, "QEMU refused")
	// ErrBadDevice: the device is not one that can be plugged.
	ErrBadDevice = errors.New("not a device")
	// ErrKept: the guest has not let go of the device. It may still do so; unplug it again to wait for that.
	ErrKept = reason.Sentinel(reason.NoGuestLink, "the guest keeps the device")
)

// errBusy: the monitor has so many clients in line that it takes no more.
var errBusy = errors.New("too many clients wait for the monitor")

const (
	maxSockets  = 512       // that one Watcher keeps connections to
	maxEntries  = 8192      // names read of one directory
	maxMessage  = 2 << 20   // bytes of a message from QEMU: query-block says about 0.5 KiB of an image
	maxEarly    = 1000      // messages before the greeting
	maxEvent    = 64 << 10  // bytes of one that is an event, for it is decoded into maps that take many times as much
	maxCommand  = 64 << 10  // bytes of a command to QEMU
	maxText     = 4 << 10   // bytes of a name or path
	maxWords    = 300       // bytes of QEMU's words in an error
	maxCPUs     = 4096      // of a guest; QEMU's own limit on x86 is lower
	maxDisks    = 512       // of a guest
	maxChain    = 200       // images of a disk, as libvirt limits it
	maxDevices  = 4096      // with one parent in QEMU's object tree
	maxVsocks   = 4         // devices asked for their CID
	maxBuses    = 64        // bridges and ports asked whether they have room
	maxBackends = 16        // of one device that are removed at a time
	maxSaid     = 8         // warnings about a socket, all different
	readPace    = 1 << 20   // bytes a second that one peer may say,
	readBurst   = 4 << 20   // after so many at once;
	minCost     = 1 << 10   // what a message counts at least for that
	cidMin      = 3         // 0 to 2 are the hypervisor, local and the host
	cidMax      = 1<<32 - 2 // the greatest is a wildcard
)

// times are the limits of all waits; a test has shorter ones.
type times struct {
	dial     time.Duration // to connect
	line     time.Duration // without a greeting, until it is said that another client has the monitor
	reply    time.Duration // for a command to be answered, and for a message to end that has begun
	unplug   time.Duration // for a guest to let go of a device
	refresh  time.Duration // between looks at a guest about which no event came
	gap      time.Duration // between looks at a guest at the least
	rescan   time.Duration // between looks at the paths
	settle   time.Duration // from a change at the paths to the look at them
	end      time.Duration // for a process to end whose connection has ended
	retryMin time.Duration // before a socket is tried again, first,
	retryMax time.Duration // and doubled up to
}

var usual = times{
	dial:     5 * time.Second,
	line:     5 * time.Second,
	reply:    20 * time.Second,
	unplug:   time.Minute,
	refresh:  30 * time.Second,
	gap:      100 * time.Millisecond,
	rescan:   15 * time.Second,
	settle:   20 * time.Millisecond,
	end:      time.Second,
	retryMin: 100 * time.Millisecond,
	retryMax: 30 * time.Second,
}
