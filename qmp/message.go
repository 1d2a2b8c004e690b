package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"
)

// lines cuts what a peer says into messages, within limits.
type lines struct {
	r *bufio.Reader
	// deadline limits how long a read may take; the zero time: for ever.
	deadline func(time.Time) error
	patience time.Duration
}

// next returns the next message, undecoded. It waits for ever for one to begin, and only so long for one to end. QEMU
// ends a message with a newline; with pretty=on its lines but the first and the last are indented.
func (l *lines) next() ([]byte, error) {
	first, err := l.r.Peek(1)
	if err != nil {
		return nil, err
	}
	if first[0] != '{' {
		junk, _ := l.r.Peek(min(l.r.Buffered(), 32))
		return nil, fmt.Errorf("read message: %w: it begins with %q", ErrNotQMP, junk)
	}
	if err := l.deadline(time.Now().Add(l.patience)); err != nil {
		return nil, err
	}
	defer l.deadline(time.Time{})
	var msg []byte
	begin := 0 // of the line
	for {
		part, err := l.r.ReadSlice('\n')
		if len(msg)+len(part) > maxMessage {
			return nil, fmt.Errorf("read message: %w: more than %d bytes in one", ErrTooLarge, maxMessage)
		}
		msg = append(msg, part...)
		switch {
		case err == nil:
			if line := bytes.TrimRight(msg[begin:], "\r\n"); len(line) > 0 && line[0] != ' ' && line[len(line)-1] == '}' {
				return msg, nil
			}
			begin = len(msg)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("read message: %w: in the middle of it", ErrEnded)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, fmt.Errorf("read message: %w: it has not ended after %v", ErrSilent, l.patience)
		default:
			return nil, fmt.Errorf("read message: %w", err)
		}
	}
}

// message is one of QEMU's: a greeting, an event, or the reply to a command.
type message struct {
	greeting *goqemu.Version
	event    *goqemu.Event
	reply    json.RawMessage // what the command returned
	refusal  *refusal        // or why it did not
	id       uint64          // of the command that it answers
}

// refusal is QEMU's error.
type refusal struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (r *refusal) Error() string        { return fmt.Sprintf("%v: %s", ErrRefused, clip(r.Desc, maxWords)) }
func (r *refusal) Is(target error) bool { return target == ErrRefused }

// notFound is the class of a refusal because a device or object does not exist.
const notFound = "DeviceNotFound"

// decode takes a message apart.
func decode(raw []byte) (message, error) {
	var m struct {
		QMP *struct {
			Version goqemu.Version `json:"version"`
		}
		Event  *string         `json:"event"`
		Data   json.RawMessage `json:"data"` // keeps what is large undecoded
		Return json.RawMessage `json:"return"`
		Error  *refusal        `json:"error"`
		ID     *uint64         `json:"id"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return message{}, fmt.Errorf("decode message: %w: %.100v", ErrNotQMP, err)
	}
	switch {
	case m.QMP != nil:
		return message{greeting: &m.QMP.Version}, nil
	case m.Event != nil:
		if len(raw) > maxEvent {
			return message{}, fmt.Errorf("decode event %.50q: %w: %d bytes", *m.Event, ErrTooLarge, len(raw))
		}
		e := new(goqemu.Event)
		if err := json.Unmarshal(raw, e); err != nil {
			return message{}, fmt.Errorf("decode event: %w: %.100v", ErrNotQMP, err)
		}
		return message{event: e}, nil
	case m.ID != nil && m.Error != nil:
		return message{refusal: m.Error, id: *m.ID}, nil
	case m.ID != nil && m.Return != nil:
		return message{reply: m.Return, id: *m.ID}, nil
	}
	return message{}, fmt.Errorf("decode message: %w: neither greeting, event nor reply: %.100q", ErrNotQMP, raw)
}

// telling are the events after which a guest may look different.
var telling = map[string]bool{
	"STOP": true, "RESUME": true, "SHUTDOWN": true, "POWERDOWN": true, "RESET": true, "SUSPEND": true, "SUSPEND_DISK": true,
	"WAKEUP": true, "GUEST_PANICKED": true, "GUEST_CRASHLOADED": true, "MIGRATION": true, "MIGRATION_PASS": true,
	"DEVICE_DELETED": true, "DEVICE_TRAY_MOVED": true, "MEMORY_DEVICE_SIZE_CHANGE": true, "ACPI_DEVICE_OST": true,
	"BLOCK_JOB_COMPLETED": true, "BLOCK_JOB_CANCELLED": true, "BLOCK_IO_ERROR": true, "JOB_STATUS_CHANGE": true,
}

// released tells whether an event says that a guest let go of the device of an id, or (kept) that it will not.
func released(e *goqemu.Event) (id string, kept, ok bool) {
	id, _ = e.Data["device"].(string)
	switch e.Event {
	case "DEVICE_DELETED":
		return id, false, id != ""
	case "DEVICE_UNPLUG_GUEST_ERROR", "MEM_UNPLUG_ERROR":
		return id, true, id != ""
	}
	return "", false, false
}

// clip cuts a peer's words to n bytes.
func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
