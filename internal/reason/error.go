package reason

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// Error is a failure as an operator sees it: what happened (the reason), to what (the subject), why (the cause) and
// what to do next (the hint).
type Error struct {
	Reason  Reason
	Subject string
	// Hint replaces that of the reason; empty keeps it.
	Hint string
	// Err is the cause; nil if the reason says it all.
	Err error
}

// Wrap returns an error with a reason, about a subject and with a cause. Subject and cause may be missing.
func Wrap(r Reason, subject string, cause error) *Error {
	return &Error{Reason: r, Subject: subject, Err: cause}
}

// WithHint returns a copy of e with another hint.
func (e *Error) WithHint(hint string) *Error {
	c := *e
	c.Hint = hint
	return &c
}

// Error gives what happened, to what, and why, on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Reason.Explain().Sentence)
	if e.Subject != "" {
		b.WriteString(": ")
		b.WriteString(e.Subject)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Next says what to do: the error's own hint, else that of its reason.
func (e *Error) Next() string {
	if e.Hint != "" {
		return e.Hint
	}
	return e.Reason.Explain().Hint
}

func (e *Error) why() Reason { return e.Reason }

// sentinel is an error that carries a reason and is compared by identity.
type sentinel struct {
	reason Reason
	text   string
}

// Sentinel returns a new error for errors.Is, with a text and a reason.
func Sentinel(r Reason, text string) error { return &sentinel{r, text} }

func (s *sentinel) Error() string { return s.text }
func (s *sentinel) why() Reason   { return s.reason }

// As finds the Error in err, or makes one of the reason that err carries; the subject, which may be empty, goes with
// one that is made. It returns nil for nil.
func As(err error, subject string) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Wrap(Of(err), subject, err)
}

// Explain is As for those who return an error: nil stays nil, and what is around an Error stays there.
func Explain(err error, subject string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return As(err, subject)
}

// Of returns the reason that err carries; 0 for nil. An Error counts first, then a full disk and a want of file
// descriptors, wherever they came up, then the outermost error that has a reason.
func Of(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	switch e := reasoned(nil); {
	case err == nil:
		return 0
	case isNoSpace(err):
		return NoSpace
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return NoDescriptors
	case errors.As(err, &e):
		return e.why()
	case errors.Is(err, syscall.EADDRINUSE):
		return AddressInUse
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case isOfFiles(err):
		return DiskError
	}
	return Unexpected
}

// isOfFiles says whether an operation on a file has failed, for whatever reason.
func isOfFiles(err error) bool {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return true
	}
	_, ok := errors.AsType[*os.LinkError](err)
	return ok
}

// reasoned is an error that knows its reason.
type reasoned interface {
	error
	why() Reason
}

// isNoSpace says whether an error is about a full disk.
func isNoSpace(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	switch w := err.(type) {
	case interface{ Unwrap() error }:
		if e, ok := err.(reasoned); ok && e.why() == NoSpace {
			return true
		}
		return w.Unwrap() != nil && isNoSpace(w.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range w.Unwrap() {
			if isNoSpace(e) {
				return true
			}
		}
		return false
	case reasoned:
		return w.why() == NoSpace
	}
	return false
}
