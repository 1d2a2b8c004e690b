package wire

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A follow is a file that the other side has open here. What it is to hear is kept as a set, so that it takes bounded
// memory however slowly the other side reads.
type follow struct {
	file    content.Digest
	handle  uint32
	fetches bool
	opened  bool // Handler.Open has succeeded; guarded by serves.mu
	chunks  int  // guarded by serves.mu, from opened on

	// Guarded by output.mu.
	told   bool         // the snapshot is on its way; news may follow
	gone   bool         // closed: nothing more may be said
	listed bool         // in output.news
	later  bool         // in output.lazy
	recent int          // chunks told of since the last frame
	early  []int        // chunks that came before the file's length was known
	have   content.Bits // of length 0 until there is something
	some   bool         // have is not empty
	peers  []PeerID     // at most MaxPeers, the newest last
}

func (f *follow) hasNews() bool { return !f.gone && (f.some || len(f.early) > 0 || len(f.peers) > 0) }

// tell allows news to f. Called under output.mu.
func (o *output) tell(f *follow) {
	f.told = true
	o.list(f)
}

// listLater is list for news that may wait.
func (o *output) listLater(f *follow) bool {
	if !f.told || f.listed || f.later || !f.hasNews() {
		return false
	}
	f.later = true
	o.lazy = append(o.lazy, f)
	if len(o.lazy) > 1 {
		return false
	}
	o.lazyTill = time.Now().Add(LazyInterval)
	return true
}

// list queues f if there is something that it may hear, and reports whether it was not queued before. Called under
// output.mu.
func (o *output) list(f *follow) bool {
	if !f.told || f.listed || !f.hasNews() {
		return false
	}
	f.listed = true
	o.news = append(o.news, f)
	return true
}

// appendNews moves some of what f is to hear into frames. Called under output.mu, after told.
func (f *follow) appendNews(p []byte) []byte {
	if f.gone {
		return p
	}
	f.settle()
	f.recent = 0
	if f.some {
		p, f.some = appendHave(p, f.handle, f.have)
	}
	if len(f.peers) > 0 {
		p = appendPeers(p, f.handle, f.peers)
		f.peers = f.peers[:0]
	}
	return p
}

// settle moves early chunks into the set, now that its length is known.
func (f *follow) settle() {
	if len(f.early) == 0 {
		return
	}
	if f.have.Len() != f.chunks {
		f.have = content.NewBits(f.chunks)
	}
	for _, i := range f.early {
		if i >= 0 && i < f.chunks {
			f.have.Set(i)
			f.some = true
		}
	}
	f.early = f.early[:0]
}

// SendHave tells the other side that these chunks of a file that it follows are here now. It does not wait: what
// cannot be sent at once is kept, once a chunk, until it can. Chunks outside the file are left out. It returns
// ErrNotOpen if the other side does not follow file, ErrEnded after the end.
func (s *Session) SendHave(file content.Digest, chunks ...int) error {
	return s.news(file, true, func(f *follow) { f.add(chunks) })
}

// SendHaveLater is SendHave for chunks of which the other side knows, or need not know soon: they go along with
// whatever is said next, or when there are several, or after LazyInterval.
func (s *Session) SendHaveLater(file content.Digest, chunks ...int) error {
	return s.news(file, false, func(f *follow) { f.add(chunks) })
}

func (f *follow) add(chunks []int) {
	f.early = append(f.early, chunks...)
	f.recent += len(chunks)
	if f.told {
		f.settle()
	}
}

// SendPeers introduces others that follow the file to the other side. It does not wait; of what cannot be sent at once
// the newest MaxPeers are kept. Errors are those of SendHave.
func (s *Session) SendPeers(file content.Digest, peers []PeerID) error {
	return s.news(file, true, func(f *follow) {
		for _, p := range peers {
			if !slices.Contains(f.peers, p) {
				f.peers = append(f.peers, p)
			}
		}
		if extra := len(f.peers) - MaxPeers; extra > 0 {
			f.peers = slices.Delete(f.peers, 0, extra)
		}
	})
}

// news adds to what the follower of a file is to hear, soon or not.
func (s *Session) news(file content.Digest, soon bool, add func(*follow)) error {
	if s.Err() != nil {
		return s.ended()
	}
	s.serves.mu.Lock()
	f := s.serves.files[file]
	s.serves.mu.Unlock()
	if f == nil {
		return ErrNotOpen
	}
	s.out.mu.Lock()
	first := false
	if !f.gone {
		add(f)
		if soon || f.recent >= LazyMost {
			first = s.out.list(f)
		} else {
			first = s.out.listLater(f)
		}
	}
	s.out.mu.Unlock()
	if first { // otherwise the writer knows already
		s.out.signal()
	}
	return nil
}
