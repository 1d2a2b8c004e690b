// Package link turns a URL into a net.Conn or a net.Listener: the bytes between two parties, whoever they are.
//
//	tcp://host:port       between hosts (TLS 1.3 goes on top: Mux and Dialer)
//	unix:///path          on one host
//	vsock://cid:port      between a guest and its host: the guest calls CID 2, the host listens at vsock://:port
//	hybrid:///path:port   the same, where the hypervisor makes a unix socket of it on the host
//	shm:///path           two rings in memory that a guest and its host share
//
// A Network makes plain connections; OS is the real one, and package linktest has one for tests. A Mux listens on one
// port and hands each connection, after a TLS handshake with certificates of the cluster on both sides, to the listener
// of the protocol that was agreed by ALPN. A Dialer is the other end. PeerOf tells who is at the other end.
//
// The package promises that whatever comes in at the port costs bounded memory and time before it has proved to be a
// member, that a peer which does not get through the handshake cannot keep out one that does, and that every
// connection behaves as net.Conn says, which package linktest checks for each kind.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// The protocols that share a host's port, as named in ALPN.
const (
	ProtoRaft  = "virtswarm-raft/1"
	ProtoWire  = "virtswarm-wire/1"
	ProtoJoin  = "virtswarm-join/1" // the caller has no certificate yet
	ProtoHTTP2 = "h2"
	ProtoHTTP1 = "http/1.1" // also of callers that name no protocol
)

var (
	// ErrBadURL: not the address of a link.
	ErrBadURL = errors.New("not the URL of a link (tcp://host:port, unix:///path, vsock://cid:port, hybrid:///path:port or shm:///path)")
	// ErrRefused: the other side closed the handshake; it does not accept this host's certificate.
	ErrRefused = reason.Sentinel(reason.NotMember, "the other side refused this host's certificate")
	// ErrNoProtocol: the other side does not speak the protocol on this port.
	ErrNoProtocol = errors.New("the other side does not speak this protocol")
)

// A Network makes connections and listeners of URLs. Implementations are safe for concurrent use; what they return
// behaves as package net documents.
type Network interface {
	// Listen starts to listen; the error names the URL. "tcp://host:0" chooses a free port, see Addr of the listener.
	Listen(ctx context.Context, url string) (net.Listener, error)
	// Dial connects; when ctx ends first, it fails with ctx's error.
	Dial(ctx context.Context, url string) (net.Conn, error)
}

// Split checks a URL and returns the network (its scheme) and the address in it; those of tcp and unix are what package
// net knows. A bare host:port is short for tcp://host:port.
func Split(raw string) (network, address string, err error) {
	if !strings.Contains(raw, "://") {
		raw = "tcp://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", fmt.Errorf("%w: %.200q", ErrBadURL, raw)
	}
	switch u.Scheme {
	case "tcp":
		if _, _, err := net.SplitHostPort(u.Host); err == nil && u.Port() != "" && (u.Path == "" || u.Path == "/") {
			return "tcp", u.Host, nil
		}
	case "vsock":
		if _, _, err := splitVsock(u.Host); err == nil && (u.Path == "" || u.Path == "/") {
			return "vsock", u.Host, nil
		}
	case "hybrid":
		if path, _, err := splitHybrid(u.Path); err == nil && u.Host == "" && filepath.IsAbs(path) {
			return "hybrid", u.Path, nil
		}
	case "unix", "shm":
		if u.Host == "" && filepath.IsAbs(u.Path) {
			return u.Scheme, u.Path, nil
		}
	}
	return "", "", fmt.Errorf("%w: %.200q", ErrBadURL, raw)
}

// A urlAddr is the address of a listener of which package net knows nothing, such that network://address is its URL.
type urlAddr struct{ network, address string }

func (a urlAddr) Network() string { return a.network }
func (a urlAddr) String() string  { return a.address }

// number reads a CID or a port of vsock: decimal digits, and not the one that means any.
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == anyNumber {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

// A peered connection knows the host at its other end.
type peered interface {
	Peer() (hostID string, ok bool)
}

// PeerOf returns the id of the host at the other end of a connection that a Mux or a Dialer made; ok is false if the
// connection proves none (a joining host, a unix socket).
func PeerOf(c net.Conn) (hostID string, ok bool) {
	if p, is := c.(peered); is {
		return p.Peer()
	}
	return "", false
}
