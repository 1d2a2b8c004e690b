package wire

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound: the side asked does not know the file.
	ErrNotFound = errors.New("file not known here")
	// ErrNotHeld: the side asked knows the file but does not hold the chunk now.
	ErrNotHeld = errors.New("chunk not held here")
	// ErrBusy: the side asked has no room for this now; later or elsewhere.
	ErrBusy = errors.New("too busy to answer")
	// ErrSpent: the side asked has nothing to give to a draw that it has not given to somebody before.
	ErrSpent = errors.New("all has been given once")
	// ErrDeclined: a draw brought a chunk that its caller did not want.
	ErrDeclined = errors.New("granted chunk declined")
	// ErrRejected is what every *RejectError is, whatever its code.
	ErrRejected = errors.New("rejected by the other side")
	// ErrNotOpen: a chunk of a file that this side has not opened on the session.
	ErrNotOpen = errors.New("file is not open on this session")
	// ErrOpen: a file is opened that already is, or MaxFiles are.
	ErrOpen = errors.New("cannot open another file on this session")

	// ErrEnded is what every call returns once the session has ended, wrapped together with the reason.
	ErrEnded = errors.New("session ended")
	// ErrClosed is the reason of a session that this side ended.
	ErrClosed = errors.New("closed by this side")
	// ErrStalled is the reason of a session whose other side completed no frame, or took none, in StallTimeout.
	ErrStalled = errors.New("the other side makes no progress")
)

// A Code says why a request was rejected or a session ended, in a form that programs understand. Unknown ones are
// legal: a later version may have more.
type Code uint16

const (
	CodeDone      Code = 0  // Goodbye: nothing is wrong; this side needs the session no more, or stops
	CodeInternal  Code = 1  // something failed over there; its log knows
	CodeProtocol  Code = 2  // Goodbye: the receiver violated the protocol
	CodeVersion   Code = 3  // Goodbye: no version in common
	CodeStalled   Code = 4  // Goodbye: the receiver made no progress
	CodeRefused   Code = 5  // not allowed
	CodeBusy      Code = 6  // no room now; later or elsewhere
	CodeNotFound  Code = 7  // Reject: no such file
	CodeNotHeld   Code = 8  // Reject: the chunk is not here
	CodeNotOpen   Code = 9  // Reject: the file has been closed
	CodeBadChunk  Code = 10 // Reject: the chunk has another length, or the file no such chunk
	CodeCancelled Code = 11 // Reject: as the receiver wished
	CodeCorrupt   Code = 12 // Goodbye: the receiver served bytes that do not match their digest
	CodeSpent     Code = 13 // Reject: of a draw: nothing that has not been given to somebody before
)

var codeNames = [...]string{
	"done", "internal error", "protocol violation", "no common version", "stalled", "refused", "busy", "not found",
	"not held", "not open", "bad chunk", "cancelled", "corrupt data", "spent",
}

// String returns a word or two for a log line.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint16(c))
}

// A RejectError is the other side's answer to a request that it did not fulfil. Returned by a Handler, it is sent as
// is.
type RejectError struct {
	Code    Code
	Message string // may be empty
}

func (e *RejectError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%v: %v", ErrRejected, e.Code)
	}
	return fmt.Sprintf("%v: %s (%v)", ErrRejected, e.Message, e.Code)
}

// Is makes a RejectError match ErrRejected and the sentinel of its code.
func (e *RejectError) Is(target error) bool {
	switch target {
	case ErrRejected:
		return true
	case ErrNotFound:
		return e.Code == CodeNotFound
	case ErrNotHeld:
		return e.Code == CodeNotHeld
	case ErrBusy:
		return e.Code == CodeBusy
	case ErrSpent:
		return e.Code == CodeSpent
	}
	return false
}

// A GoodbyeError is the reason of a session that the other side ended.
type GoodbyeError struct {
	Code    Code
	Message string // may be empty
}

func (e *GoodbyeError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the other side ended the session: %v", e.Code)
	}
	return fmt.Sprintf("the other side ended the session: %s (%v)", e.Message, e.Code)
}

// A ProtocolError is the reason of a session that ended because the other side broke the rules of the protocol.
type ProtocolError struct {
	Frame string // the frame at fault: "Have 17 (12 bytes)"
	What  string // the rule it broke
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("protocol violation in %s: %s", e.Frame, e.What)
}

// rejection turns the error of a handler into what the other side may know of it.
func rejection(err error) (rej RejectError, told bool) {
	var r *RejectError
	switch {
	case errors.As(err, &r):
		return *r, true
	case errors.Is(err, ErrNotFound):
		return RejectError{Code: CodeNotFound}, true
	case errors.Is(err, ErrNotHeld):
		return RejectError{Code: CodeNotHeld}, true
	case errors.Is(err, ErrBusy):
		return RejectError{Code: CodeBusy}, true
	case errors.Is(err, ErrSpent):
		return RejectError{Code: CodeSpent}, true
	}
	return RejectError{Code: CodeInternal}, false
}
