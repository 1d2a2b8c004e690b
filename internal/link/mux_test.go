package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/internal/pki"
)

// port is a Mux on a network, with a listener for each protocol.
type port struct {
	*link.Mux
	id        *pki.Identity
	network   link.Network
	url       string
	listeners map[string]net.Listener
	served    chan error
}

func newPort(t *testing.T, n link.Network, id *pki.Identity, c link.MuxConfig, protos ...string) *port {
	t.Helper()
	url := "tcp://127.0.0.1:0"
	ln, err := n.Listen(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	c.Identity = id
	p := &port{Mux: link.NewMux(ln, c), id: id, network: n, listeners: map[string]net.Listener{}, served: make(chan error, 1)}
	p.url = "tcp://" + ln.Addr().String()
	for _, proto := range protos {
		p.listeners[proto] = p.Listen(proto)
	}
	go func() { p.served <- p.Serve() }()
	return p
}

func (p *port) close(t *testing.T) {
	t.Helper()
	p.Close()
	if err := <-p.served; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func (p *port) dial(t *testing.T, id *pki.Identity, proto, expect string) (net.Conn, error) {
	t.Helper()
	return (&link.Dialer{Network: p.network, Identity: id}).Dial(t.Context(), p.url, proto, expect)
}

func newCluster(t *testing.T, name string) *pki.Identity {
	t.Helper()
	id, err := pki.Init(nil, filepath.Join(t.TempDir(), "pki"), name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newMember(t *testing.T, of *pki.Identity) *pki.Identity {
	t.Helper()
	r, err := pki.Prepare(nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := of.CA().SignCSR(r.CSR())
	if err != nil {
		t.Fatal(err)
	}
	id, err := r.Accept(of.CA().Pin(), cert, of.CA().Certificate(), of.CA().Key())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// meet accepts the other end of c and makes sure that it is.
func meet(t *testing.T, l net.Listener, c net.Conn) net.Conn {
	t.Helper()
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go c.Write([]byte("hello"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(there, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	return there
}

func TestMux(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := newCluster(t, "one")
		member := newMember(t, here)
		p := newPort(t, linktest.NewMemory(), here, link.MuxConfig{}, link.ProtoWire, link.ProtoRaft, link.ProtoHTTP2, link.ProtoJoin)
		defer p.close(t)
		for _, proto := range []string{link.ProtoRaft, link.ProtoWire, link.ProtoHTTP2} {
			c, err := p.dial(t, member, proto, here.HostID())
			if err != nil {
				t.Fatalf("%s: %v", proto, err)
			}
			there := meet(t, p.listeners[proto], c)
			if peer, ok := link.PeerOf(there); !ok || peer != member.HostID() {
				t.Errorf("the caller is %s", peer)
			}
			if peer, ok := link.PeerOf(c); !ok || peer != here.HostID() {
				t.Errorf("the called is %s", peer)
			}
			c.Close()
			there.Close()
		}

		c, err := link.DialJoin(t.Context(), p.network, p.url, newToken(t, here))
		if err != nil {
			t.Fatal(err)
		}
		there := meet(t, p.listeners[link.ProtoJoin], c)
		if peer, ok := link.PeerOf(there); ok {
			t.Errorf("a joining host is %s", peer)
		}
		if peer, ok := link.PeerOf(c); !ok || peer != here.HostID() {
			t.Errorf("a joining host is answered by %s", peer)
		}
		c.Close()
		there.Close()
	})
}

func TestMuxRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := newCluster(t, "one")
		member, removed, stranger := newMember(t, here), newMember(t, here), newCluster(t, "two")
		allow := func(host string, _ bool) error {
			if host == removed.HostID() {
				return errors.New("it has left")
			}
			return nil
		}
		p := newPort(t, linktest.NewMemory(), here, link.MuxConfig{Allow: allow}, link.ProtoWire)
		defer p.close(t)

		if _, err := p.dial(t, member, link.ProtoWire, removed.HostID()); !errors.Is(err, pki.ErrWrongHost) || !strings.Contains(err.Error(), p.url) {
			t.Errorf("another host: %v", err)
		}
		if _, err := p.dial(t, stranger, link.ProtoWire, ""); !errors.Is(err, pki.ErrOtherCluster) {
			t.Errorf("called by another cluster: %v", err)
		}
		for _, proto := range []string{link.ProtoRaft, link.ProtoJoin, "smtp"} {
			if _, err := p.dial(t, member, proto, ""); !errors.Is(err, link.ErrNoProtocol) {
				t.Errorf("%s: %v", proto, err)
			}
		}
		if _, err := link.DialJoin(t.Context(), p.network, p.url, newToken(t, here)); !errors.Is(err, link.ErrNoProtocol) {
			t.Errorf("joining where nobody admits: %v", err)
		}
		c, err := p.dial(t, removed, link.ProtoWire, "")
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !link.Refused(err) || !errors.Is(err, link.ErrRefused) {
			t.Errorf("a removed host: %v", err)
		}
		if _, err := (&link.Dialer{Network: p.network, Identity: member}).Dial(t.Context(), "tcp://127.0.0.1:9", link.ProtoWire, ""); !errors.Is(err, syscall.ECONNREFUSED) || link.Refused(err) {
			t.Errorf("nobody there: %v", err)
		}

		// Nothing of all that keeps a member out.
		c, err = p.dial(t, member, link.ProtoWire, "")
		if err != nil {
			t.Fatal(err)
		}
		meet(t, p.listeners[link.ProtoWire], c).Close()
		c.Close()
	})
}

// TestSlowLoris: those who never finish their handshake give way to those who do, and are gone after a while.
func TestSlowLoris(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := newCluster(t, "one")
		member := newMember(t, here)
		p := newPort(t, linktest.NewMemory(), here, link.MuxConfig{MaxHandshakes: 4}, link.ProtoWire)
		defer p.close(t)
		var silent []net.Conn
		for i := range 20 {
			c, err := p.network.Dial(t.Context(), p.url)
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 {
				c.Write([]byte{22, 3, 1, 0, 200, 1}) // some begin to say hello
			}
			silent = append(silent, c)
			synctest.Wait()
		}
		if busy := p.Handshakes(); busy != 4 {
			t.Errorf("%d handshakes at once", busy)
		}
		begin := time.Now()
		c, err := p.dial(t, member, link.ProtoWire, "")
		if err != nil {
			t.Fatal(err)
		}
		meet(t, p.listeners[link.ProtoWire], c).Close()
		c.Close()
		if time.Since(begin) != 0 {
			t.Errorf("a member had to wait for %v", time.Since(begin))
		}
		for i, c := range silent {
			c.Read(make([]byte, 1))
			if early := time.Since(begin) == 0; early != (i < 17) {
				t.Errorf("silent one %d was closed after %v", i, time.Since(begin))
			}
			c.Close()
		}
		if time.Since(begin) != link.DefaultTimeout {
			t.Errorf("the last silent one was closed after %v", time.Since(begin))
		}
	})
}

// TestBacklog: a protocol that nobody serves at the moment holds a bounded number of connections, and no other up.
func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := newCluster(t, "one")
		p := newPort(t, linktest.NewMemory(), here, link.MuxConfig{Backlog: 3}, link.ProtoWire, link.ProtoRaft)
		var waiting []net.Conn
		for range 5 {
			c, err := p.dial(t, here, link.ProtoRaft, "")
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			waiting = append(waiting, c)
		}
		for _, c := range waiting[3:] {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("one too many is open")
			}
		}
		c, err := p.dial(t, here, link.ProtoWire, "")
		if err != nil {
			t.Fatal(err)
		}
		there := meet(t, p.listeners[link.ProtoWire], c)
		p.close(t)
		for _, c := range waiting {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("nobody will ever accept it, but it is open")
			}
			c.Close()
		}
		if _, err := p.listeners[link.ProtoRaft].Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		go there.Write([]byte{1}) // what was accepted lives on
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c.Close()
		there.Close()
	})
}

// TestListenerCloses turns away one protocol.
func TestListenerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := newCluster(t, "one")
		p := newPort(t, linktest.NewMemory(), here, link.MuxConfig{}, link.ProtoWire, link.ProtoRaft)
		defer p.close(t)
		p.listeners[link.ProtoRaft].Close()
		p.listeners[link.ProtoRaft].Close()
		c, err := p.dial(t, here, link.ProtoRaft, "")
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if err == nil {
			t.Error("somebody answers")
		}
		c, err = p.dial(t, here, link.ProtoWire, "")
		if err != nil {
			t.Fatal(err)
		}
		meet(t, p.listeners[link.ProtoWire], c).Close()
		c.Close()
	})
}

// poor is a listener that runs out of file descriptors now and then.
type poor struct {
	net.Listener
	failures int
	final    error
}

func (p *poor) Accept() (net.Conn, error) {
	if p.failures > 0 {
		p.failures--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	if p.final != nil {
		return nil, p.final
	}
	return p.Listener.Accept()
}

func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := newCluster(t, "one")
		n := linktest.NewMemory()
		ln, err := n.Listen(t.Context(), "a:1")
		if err != nil {
			t.Fatal(err)
		}
		m := link.NewMux(&poor{Listener: ln, failures: 12}, link.MuxConfig{Identity: here})
		wire := m.Listen(link.ProtoWire)
		served := make(chan error, 1)
		go func() { served <- m.Serve() }()
		c, err := (&link.Dialer{Network: n, Identity: here}).Dial(t.Context(), "a:1", link.ProtoWire, "")
		if err != nil {
			t.Fatal(err)
		}
		meet(t, wire, c).Close()
		c.Close()
		m.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}

		ln, err = n.Listen(t.Context(), "a:1")
		if err != nil {
			t.Fatal(err)
		}
		m = link.NewMux(&poor{Listener: ln, final: syscall.EINVAL}, link.MuxConfig{Identity: here})
		wire = m.Listen(link.ProtoWire)
		if err := m.Serve(); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("serve: %v", err)
		}
		if _, err := wire.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		m.Close()
	})
}

// TestHTTP: what package net/http needs to be told to serve the API over these connections, HTTP/2 and 1.1.
func TestHTTP(t *testing.T) {
	here := newCluster(t, "one")
	member := newMember(t, here)
	ln, err := link.OS.Listen(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := link.NewMux(ln, link.MuxConfig{Identity: here})
	api := m.Listen(link.ProtoHTTP2, link.ProtoHTTP1)
	go m.Serve()
	defer m.Close()
	type key struct{}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, _ := link.PeerOf(r.Context().Value(key{}).(net.Conn))
			io.WriteString(w, r.Proto+" "+peer)
		}),
		Protocols:   new(http.Protocols),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, key{}, c) },
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go server.Serve(api)
	defer server.Close()

	get := func(client *http.Client, url, want string) {
		t.Helper()
		r, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if body, err := io.ReadAll(r.Body); string(body) != want || err != nil {
			t.Errorf("%q, %v", body, err)
		}
		client.CloseIdleConnections()
	}
	d := &link.Dialer{Identity: member}
	ours := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.Dial(ctx, ln.Addr().String(), link.ProtoHTTP2, here.HostID())
		},
		Protocols: new(http.Protocols),
	}
	ours.Protocols.SetUnencryptedHTTP2(true)
	get(&http.Client{Transport: ours}, "http://x/", "HTTP/2.0 "+member.HostID())

	// The likes of curl, by either version.
	for proto, config := range map[string]*tls.Config{"HTTP/1.1": member.ClientConfig("", nil), "HTTP/2.0": member.ClientConfig("", nil)} {
		theirs := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: proto == "HTTP/2.0"}
		get(&http.Client{Transport: theirs}, "https://"+ln.Addr().String(), proto+" "+member.HostID())
	}
}

func newToken(t *testing.T, of *pki.Identity) pki.Token {
	t.Helper()
	token, err := of.CA().NewToken(time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
