package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/pki"
)

const (
	// ProtoProbe is spoken by a machine that joins, with a member that wants to know whether hosts reach it where it says.
	ProtoProbe = "virtswarm-probe/1"
	// probeTimeout bounds a probe at either end, probesAtOnce the callers that are listened to at a time.
	probeTimeout = 3 * time.Second
	probesAtOnce = 16
)

// AnswerProbe waits at a listener until a caller has probed whether the machine that made the request answers there, or
// until the listener is closed. Whoever calls for something else is turned away.
func AnswerProbe(l net.Listener, request *pki.Request) error {
	config, err := request.ProbeConfig()
	if err != nil {
		return err
	}
	config.NextProtos = []string{ProtoProbe}
	ctx, cancel := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer cancel()
	answered := make(chan struct{})
	var once sync.Once
	slots := make(chan struct{}, probesAtOnce)
	go func() {
		select {
		case <-answered:
			l.Close()
		case <-ctx.Done():
		}
	}()
	for {
		raw, err := l.Accept()
		if err != nil {
			select {
			case <-answered:
				return nil
			default:
				return err
			}
		}
		select {
		case slots <- struct{}{}:
		default: // somebody keeps all of them busy: they end by themselves
			raw.Close()
			continue
		}
		callers.Go(func() {
			defer func() { <-slots }()
			defer raw.Close()
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			if err := tls.Server(raw, config).HandshakeContext(ctx); err == nil {
				once.Do(func() { close(answered) })
			}
		})
	}
}

// ErrNobody says that no machine answers at an address.
var ErrNobody = errors.New("nobody answers")

// Probe finds out whether the machine with a host id, which is no member yet, answers at an address: a URL or host:port.
// The error is ErrNobody, or says that it is another one that answers. A nil network means OS.
func Probe(ctx context.Context, n Network, addr, host string) error {
	if n == nil {
		n = OS
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	raw, err := n.Dial(ctx, addr)
	if err != nil {
		return fmt.Errorf("%w: call %s: %w", ErrNobody, addr, err)
	}
	defer raw.Close()
	config := pki.ProbeClientConfig(host)
	config.NextProtos = []string{ProtoProbe}
	if err := tls.Client(raw, config).HandshakeContext(ctx); err != nil {
		return fmt.Errorf("call %s: %w", addr, explain(err))
	}
	return nil
}
