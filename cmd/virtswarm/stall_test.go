package main

import (
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"sync"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// stallingDisk is the machine's disk, which stalls when it is told to: then nobody reads or writes the bytes of stored
// files and of files outside of the host's directory. The catalogue's log goes on.
type stallingDisk struct {
	disk.OS
	data string // the host's directory

	mu      sync.Mutex
	reached chan struct{} // closed when somebody waits; nil: the disk does not stall
	resumed chan struct{}
}

func newStallingDisk(data string) *stallingDisk { return &stallingDisk{data: data} }

// stall stalls the disk until resume. The channel is closed when the first access waits.
func (d *stallingDisk) stall() (reached <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reached, d.resumed = make(chan struct{}), make(chan struct{})
	return d.reached
}

// resume lets all accesses go on.
func (d *stallingDisk) resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resumed != nil {
		close(d.resumed)
		d.resumed = nil
	}
}

// pass waits while the disk stalls.
func (d *stallingDisk) pass() {
	d.mu.Lock()
	resumed := d.resumed
	if resumed != nil {
		select {
		case <-d.reached:
		default:
			close(d.reached)
		}
	}
	d.mu.Unlock()
	if resumed != nil {
		<-resumed
	}
}

// OpenFile implements disk.FS.
func (d *stallingDisk) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := d.OS.OpenFile(path, flag, perm)
	return d.guard(f, err, path)
}

// CreateUnnamed implements disk.FS.
func (d *stallingDisk) CreateUnnamed(dir string, perm fs.FileMode) (disk.File, error) {
	f, err := d.OS.CreateUnnamed(dir, perm)
	return d.guard(f, err, dir)
}

// guard has a file that was opened stall with the disk, if it is one that does.
func (d *stallingDisk) guard(f disk.File, err error, path string) (disk.File, error) {
	if within := strings.HasPrefix(path, d.data+"/"); err != nil || within && filepath.Base(path) != "data" {
		return f, err
	}
	return stallingFile{f, d}, nil
}

type stallingFile struct {
	disk.File
	disk *stallingDisk
}

func (f stallingFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.pass()
	return f.File.ReadAt(p, off)
}

func (f stallingFile) WriteAt(p []byte, off int64) (int, error) {
	f.disk.pass()
	return f.File.WriteAt(p, off)
}

func (f stallingFile) CloneRange(src disk.File, srcOff, n, dstOff int64) error {
	f.disk.pass()
	return f.File.CloneRange(bare(src), srcOff, n, dstOff)
}

func (f stallingFile) CloneTo(dst disk.File) error {
	f.disk.pass()
	return f.File.CloneTo(bare(dst))
}

func bare(f disk.File) disk.File {
	if s, ok := f.(stallingFile); ok {
		return s.File
	}
	return f
}

// door is a host's socket, and tells of one call there.
type door struct {
	*net.UnixListener
	mu   sync.Mutex
	next *call
}

// call is a connection that somebody makes.
type call struct {
	net.Conn
	arrive, end    sync.Once
	arrived, ended chan struct{} // closed when the host has read something of it, and when the host has done with it
}

// await returns the next call.
func (d *door) await() *call {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = &call{arrived: make(chan struct{}), ended: make(chan struct{})}
	return d.next
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	conn, err := d.UnixListener.Accept()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil || d.next == nil {
		return conn, err
	}
	c := d.next
	d.next, c.Conn = nil, conn
	return c, nil
}

func (c *call) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.arrive.Do(func() { close(c.arrived) })
	}
	return n, err
}

func (c *call) Close() error {
	c.end.Do(func() { close(c.ended) })
	return c.Conn.Close()
}
