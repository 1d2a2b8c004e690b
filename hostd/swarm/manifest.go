package swarm

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// Manifest fetches the manifest of a file from any of its holders and verifies it. One holder is asked after the other,
// the next when one fails or takes longer than usual.
//
// Errors: ErrNoHolder if none of them gave it; that of ctx; ErrClosed.
func (s *Swarm) Manifest(ctx context.Context, file content.Digest) (*content.Manifest, error) {
	if !s.enter() {
		return nil, ErrClosed
	}
	defer s.wg.Done()
	var asks sync.WaitGroup
	defer asks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	type answer struct {
		m   *content.Manifest
		err error
	}
	inquiry := plan.NewInquiry(s.holders(file))
	answers := make(chan answer, inquiry.Asked())
	failure := &NoHolderError{File: file, Hosts: inquiry.Asked()}
	hedge := time.NewTimer(plan.HedgeTime)
	defer hedge.Stop()
	for {
		if id, ok := inquiry.Next(time.Now()); ok {
			asks.Go(func() {
				m, err := s.manifestFrom(ctx, wire.PeerID(id), file)
				answers <- answer{m, err}
			})
			hedge.Reset(time.Until(inquiry.Due()))
		}
		if inquiry.Over() {
			return nil, failure
		}
		select {
		case a := <-answers:
			if a.err == nil {
				return a.m, nil
			}
			failure.Last = a.err
			inquiry.Failed(time.Now())
		case <-hedge.C:
		case <-ctx.Done():
			if s.ctx.Err() != nil {
				return nil, ErrClosed
			}
			return nil, fmt.Errorf("fetch manifest of %s: %w", file.Short(), ctx.Err())
		}
	}
}

func (s *Swarm) manifestFrom(ctx context.Context, id wire.PeerID, file content.Digest) (*content.Manifest, error) {
	l, err := s.peers.hold(ctx, id, false)
	if err != nil {
		return nil, err
	}
	defer s.peers.release(l)
	p, err := l.sess.Manifest(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("fetch manifest of %s from host %s: %w", file.Short(), id, err)
	}
	if content.Sum(p) != file {
		err := fmt.Errorf("manifest of %s from host %s: %w", file.Short(), id, ErrBadPeer)
		s.peers.shun(id, err)
		return nil, err
	}
	m, err := content.DecodeManifest(p)
	if err != nil {
		// Its digest is right: whoever published it made it so, not this peer.
		return nil, fmt.Errorf("decode manifest of %s: %w", file.Short(), err)
	}
	return m, nil
}
