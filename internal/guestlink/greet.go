package guestlink

import (
	"fmt"
	"io"
	"net"
)

// Greet exchanges greetings at the guest's end of a fresh link. A host of another version says so in a *Failure with
// CodeVersion; one of version 1 too, for the greeting is still its.
func Greet(link net.Conn, agent string) (w Welcome, err error) {
	c := NewConn(link)
	if err := c.SendMessage(Hello, 1, HelloRequest{Version: Version, Agent: agent}); err != nil {
		return w, err
	}
	for {
		f, err := c.Receive()
		if err == io.EOF {
			err = fmt.Errorf("the host has closed the link: %w", err)
		}
		switch {
		case err != nil:
			return w, err
		case f.Kind == Beat: // of a host of version 1
		case f.Kind == Failed:
			return w, f.failure()
		case f.Kind != Hello:
			return w, fmt.Errorf("%w: it greets with a %s frame", ErrProtocol, f.Kind)
		default:
			if err := f.Decode(&w); err != nil {
				return w, err
			}
			if w.Version != Version {
				return w, Fail(CodeVersion, "host %.64s speaks version %d of the guest link, the agent version %d",
					w.Host, w.Version, Version)
			}
			return w, nil
		}
	}
}

// Greeted waits at the host's end of a fresh link for the guest's greeting. What is none is a *Failure; an agent of
// another version is for the caller to refuse, in a Failed frame over c, that an agent of every version understands.
func Greeted(c *Conn) (hello HelloRequest, err error) {
	f, err := c.Receive()
	if err != nil {
		return hello, err
	}
	if f.Kind != Hello || f.Decode(&hello) != nil {
		return hello, Fail(CodeProtocol, "a link begins with a Hello, not with a %s frame", f.Kind)
	}
	return hello, nil
}

// failure is what a Failed frame says: a *Failure, unless it is none.
func (f Frame) failure() error {
	var why Failure
	if err := f.Decode(&why); err != nil {
		return err
	}
	why.Message = why.Message[:min(len(why.Message), MaxMessage)]
	return &why
}
