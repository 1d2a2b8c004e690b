// Command hostile is the enemy in a guest of the acceptance tests: over the shared memory of its guest link it does to
// the daemon of its host whatever root can do there. It says of each attack what became of it, and fails if something
// succeeded that the host must refuse, or if the host serves this guest no more once the attack is over.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// recovery bounds the time that the host may take to serve this guest again: a region that was overwritten is formatted
// anew, and channels are given up when nothing moves in them.
const recovery = 90 * time.Second

// attacker is what an attack works with.
type attacker struct {
	path   string         // of the region
	end    time.Time      // of the attack
	own    string         // a large file that this guest may read
	secret string         // one that it may not
	digest content.Digest // of the secret
	codes  map[string]int // how often which word was the host's last
}

// attacks by name, in the order in which they are listed.
var attacks = []struct {
	name string
	do   func(x *attacker) error
}{
	{"frames", (*attacker).frames},
	{"lengths", (*attacker).lengths},
	{"rings", (*attacker).rings},
	{"flood", (*attacker).flood},
	{"streams", (*attacker).streams},
	{"slow", (*attacker).slow},
	{"secrets", (*attacker).secrets},
	{"pushes", (*attacker).pushes},
	{"scribble", (*attacker).scribble},
}

func main() {
	lasts := flag.Duration("for", 5*time.Second, "how long each attack lasts")
	own := flag.String("own", "", "a large file that this guest may read")
	secret := flag.String("secret", "", "a file that it may not")
	digest := flag.String("digest", "", "the secret's")
	flag.Parse()
	failed := false
	for _, a := range attacks {
		if flag.NArg() > 0 && !slices.Contains(flag.Args(), a.name) {
			continue
		}
		x := &attacker{own: *own, secret: *secret, codes: map[string]int{}}
		err := x.find()
		if err == nil {
			x.digest, err = content.ParseDigest(*digest)
		}
		begun := time.Now()
		if err == nil {
			x.end = begun.Add(*lasts)
			err = a.do(x)
		}
		attacked := time.Since(begun)
		if err == nil {
			err = x.served()
		}
		fmt.Printf("%s: %.1f s, served again after %.1f s, %v, error: %v\n", a.name, attacked.Seconds(), (time.Since(begun) - attacked).Seconds(), x.codes, err)
		failed = failed || err != nil
	}
	if failed {
		os.Exit(1)
	}
}

// find finds the region of this guest's link.
func (x *attacker) find() error {
	paths, err := shmring.Find()
	for _, p := range paths {
		if _, err := shmring.Probe(p); err == nil {
			x.path = p
			return nil
		}
	}
	return fmt.Errorf("no region here: %w", errors.Join(err, errors.New("none is formatted")))
}

// on says that the attack goes on.
func (x *attacker) on() bool { return time.Now().Before(x.end) }

// dial opens a link, and is patient: the attack before may have left the region in disorder.
func (x *attacker) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), recovery)
	defer cancel()
	for {
		c, err := shmring.Dial(ctx, x.path, shmring.Options{})
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// greet opens a link and exchanges greetings.
func (x *attacker) greet() (net.Conn, error) {
	c, err := x.dial()
	if err != nil {
		return nil, err
	}
	if _, err := guestlink.Greet(c, "hostile"); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// session opens a link that is fit for streams.
func (x *attacker) session() (*guestlink.Session, error) {
	c, err := x.greet()
	if err != nil {
		return nil, err
	}
	return guestlink.NewSession(c, guestlink.Config{Guest: true})
}

// talk opens a stream.
func (x *attacker) talk(s *guestlink.Session, purpose guestlink.Purpose) (*guestlink.Conn, error) {
	stream, err := s.Open(context.Background(), purpose)
	if err != nil {
		return nil, err
	}
	return guestlink.NewConn(stream), nil
}

// served says whether the host serves this guest, soon.
func (x *attacker) served() error {
	var err error
	for begun := time.Now(); time.Since(begun) < recovery; time.Sleep(50 * time.Millisecond) {
		if err = x.ping(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("not served any more: %w", err)
}

func (x *attacker) ping() error {
	s, err := x.session()
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := x.talk(s, guestlink.ForRequests)
	if err != nil {
		return err
	}
	if err := c.Send(guestlink.Ping, 2, []byte("still there?")); err != nil {
		return err
	}
	f, err := c.Receive()
	if err == nil && f.Kind != guestlink.Pong {
		err = fmt.Errorf("answered by a %s frame: %s", f.Kind, f.Payload)
	}
	return err
}

// lastOf reads a link without a session until it ends, and notes the last word. Bulk must not come.
func (x *attacker) lastOf(link net.Conn) error {
	defer link.Close()
	c := guestlink.NewConn(link)
	for {
		f, err := c.Receive()
		switch {
		case err != nil:
			x.codes["no word"]++
			return nil
		case f.Kind == guestlink.Data:
			return fmt.Errorf("%d bytes came that must not", len(f.Payload))
		case f.Kind == guestlink.Failed:
			var why guestlink.Failure
			if err := f.Decode(&why); err != nil {
				return err
			}
			x.codes[string(why.Code)]++
			return nil
		}
	}
}

// ended waits until a session has ended, or the host has given up on a stream of it at least, and notes the last word,
// which it returns.
func (x *attacker) ended(s *guestlink.Session) (guestlink.Code, error) {
	defer s.Close()
	select {
	case <-s.Done():
	case <-time.After(recovery):
		return "", fmt.Errorf("the host goes on with a link after %s", recovery)
	}
	why, said := errors.AsType[*guestlink.Failure](s.Err())
	if !said {
		x.codes["no word"]++
		return "", nil
	}
	x.codes[string(why.Code)]++
	return why.Code, nil
}

// noise is bytes of the generator that everything here is drawn from.
func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = io.ReadFull(dice, p)
	return p
}

var dice = rand.NewChaCha8([32]byte{7})
