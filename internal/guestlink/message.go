package guestlink

import (
	"encoding/json"
	"fmt"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Kind says what a frame is. The payload of control frames is JSON of the struct of the same name, or empty.
type Kind uint8

const (
	// Hello is the first frame of either side of a link: of the guest a Hello, of the host a Welcome. It is the same in
	// all versions, so that a side of another version can be told so.
	Hello Kind = 1 + iota
	// Ping is answered by a Pong with the same payload of at most MaxPing bytes, whatever they are.
	Ping
	Pong
	// List asks for a ListRequest; the answer is Entries, as many as it takes, and End.
	List
	Entries
	// Watch asks to be told by Changed, from now on, when a List of the prefix may have become another.
	Watch
	Changed
	// Open makes a file the one that Read reads. The answer is Opened, the encoded manifest as Data, and End.
	Open
	Opened
	// Read asks for the bytes of chunks of the open file: they come as Data, one after the other, without the holes, and
	// then End.
	Read
	// Push begins to publish a file: it is followed by the encoded manifest as Data. The answer is Wanted and, as Data,
	// the encoded set (content.Bits) of the chunks that the host wants; they follow as Data, in order, and then Commit.
	// The host answers with Progress now and then, and with Published.
	Push
	Wanted
	Commit
	Progress
	Published
	// Data is bulk. It is the only frame whose checksum leaves out its payload.
	Data
	// End ends an answer of several frames.
	End
	// Beat says that its sender lives, whatever it is at. It belongs to a link, not to a stream.
	Beat
	// Failed is the answer to a request that failed: a Failure. Outside of streams it ends the link.
	Failed
	// Bell, on a stream for it, says that there is something for the other side in the guest's shared memory, for one that
	// sleeps and would look for it later. It has no answer.
	Bell
	// Start is the first frame of a stream: what it is for.
	Start
	// Mux is a frame of the multiplexer. Its checksum covers the multiplexer's header alone.
	Mux

	lastKind = Mux
)

var kindNames = [...]string{
	"", "Hello", "Ping", "Pong", "List", "Entries", "Watch", "Changed", "Open", "Opened", "Read", "Push", "Wanted", "Commit",
	"Progress", "Published", "Data", "End", "Beat", "Failed", "Bell", "Start", "Mux",
}

// String returns the name.
func (k Kind) String() string {
	if k > 0 && k <= lastKind {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// HelloRequest opens a link.
type HelloRequest struct {
	Version int    `json:"version"`
	Agent   string `json:"agent"` // its own version, for the host's log
	// Features are what the agent can beyond the version; those that a side does not know it passes over.
	Features []string `json:"features,omitempty"`
}

// Welcome says whom the host takes the guest for, and what it may publish.
type Welcome struct {
	Version int    `json:"version"`
	UUID    string `json:"uuid"`   // of the domain
	Domain  string `json:"domain"` // its name
	Host    string `json:"host"`   // name of the host
	Daemon  string `json:"daemon"` // version of the daemon
	// Features are what the host can beyond the version, as in HelloRequest.
	Features []string `json:"features,omitempty"`
	// PushPrefix is what the names of its files begin with; "" = it may publish nothing. PushQuota is in bytes.
	PushPrefix string `json:"push_prefix,omitempty"`
	PushQuota  int64  `json:"push_quota,omitempty"`
}

// ListRequest asks for the newest versions of the files that the guest may read and whose names begin with Prefix.
type ListRequest struct {
	Prefix string `json:"prefix,omitempty"`
}

// Entry is a file that the guest may read.
type Entry struct {
	Name      string         `json:"name"`
	ID        content.Digest `json:"id"`
	Size      int64          `json:"size"`      // bytes
	Published int64          `json:"published"` // Unix seconds
}

// EntryList is the payload of Entries.
type EntryList struct {
	Files []Entry `json:"files"`
}

// OpenRequest names a file: its newest version, or the one of an ID.
type OpenRequest struct {
	Name string         `json:"name"`
	ID   content.Digest `json:"id,omitzero"`
}

// OpenedFile says which version of the file is open, and how long its encoded manifest is, in bytes.
type OpenedFile struct {
	ID       content.Digest `json:"id"`
	Size     int64          `json:"size"` // bytes of the file
	Manifest int            `json:"manifest"`
}

// ReadRequest asks for Count chunks of the open file from First on: together at most MaxRead bytes, or a single one.
type ReadRequest struct {
	First int `json:"first"`
	Count int `json:"count"`
}

// PushRequest begins to publish a file.
type PushRequest struct {
	Name     string `json:"name"`     // under the domain's prefix, or relative to it
	Manifest int    `json:"manifest"` // bytes of the encoded manifest
}

// WantedSet is the payload of Wanted.
type WantedSet struct {
	Chunks int `json:"chunks"` // how many there are in the file
	Bytes  int `json:"bytes"`  // length of the encoded set
}

// PushProgress is the payload of Progress and of Published: how many copies there are of the shard that has the fewest,
// and how many there are to be.
type PushProgress struct {
	Name   string         `json:"name"`
	ID     content.Digest `json:"id"`
	Copies int            `json:"copies"`
	Wanted int            `json:"wanted"`
}

// Failure says why there is no answer.
type Failure struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Code tells programs why.
type Code string

// Codes. Unknown ones are legal: a later version may have more.
const (
	CodeNotFound Code = "not-found" // no such file that this guest may read
	CodeDenied   Code = "denied"    // the domain may not publish this
	CodeQuota    Code = "quota"     // nor this much
	CodeBusy     Code = "busy"      // too many of its links, or pushes, are open
	CodeUnknown  Code = "unknown-domain"
	CodeProtocol Code = "protocol" // the receiver broke the rules
	CodeVersion  Code = "version"
	CodeCorrupt  Code = "corrupt"     // a chunk does not match its digest
	CodeSpace    Code = "no-space"    // the host has no room
	CodeRetry    Code = "retry"       // not now; the host stops, or has no leader
	CodeGone     Code = "gone"        // the domain is not here any more
	CodeFailed   Code = "host-failed" // something failed at the host; its log knows
	// CodeUnknownStream: a stream is for what this side does not know.
	CodeUnknownStream Code = "unknown-stream"
)

// Error makes a Failure an error, cut to MaxMessage.
func (f *Failure) Error() string {
	if f.Message == "" {
		return string(f.Code)
	}
	return f.Message
}

// Is makes failures of one code alike.
func (f *Failure) Is(target error) bool {
	o, ok := target.(*Failure)
	return ok && o.Code == f.Code && o.Message == ""
}

// Fail makes a failure.
func Fail(code Code, format string, args ...any) *Failure {
	text := fmt.Sprintf(format, args...)
	if len(text) > MaxMessage {
		text = text[:MaxMessage]
	}
	return &Failure{Code: code, Message: text}
}

// SendMessage sends a control frame with v as JSON; nil is an empty payload.
func (c *Conn) SendMessage(kind Kind, id uint32, v any) error {
	p, err := encode(v)
	if err != nil {
		return fmt.Errorf("send %s: %w", kind, err)
	}
	return c.Send(kind, id, p)
}

func encode(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}

// Decode reads the payload of a control frame into v.
func (f Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("%w: %s frame: %w", ErrProtocol, f.Kind, err)
	}
	return nil
}
