package qmp

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"
)

// FuzzEvents gives a session what a peer may say, up to the end of the connection.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\r\n" + `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}` + "\r\n"))
	f.Add([]byte(`{"event": "DEVICE_DELETED", "data": {"device": "shm0", "path": "/machine/peripheral/shm0"}}` + "\n"))
	f.Add([]byte(`{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": "shm0", "path": "x"}}` + "\n"))
	f.Add([]byte("{\r\n    \"event\": \"RESUME\"\r\n}\r\n"))
	f.Add([]byte(`{"error": {"class": "DeviceNotFound", "desc": "x"}, "id": 1}` + "\n"))
	f.Add([]byte(`{"event": null, "return": [], "id": 18446744073709551616}` + "\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		s := &session{dirty: make(chan struct{}, 1), sent: 1, waits: map[*wait]struct{}{}}
		s.lines = &lines{r: bufio.NewReader(bytes.NewReader(said)), deadline: func(time.Time) error { return nil }}
		w := &wait{id: "shm0", end: make(chan error, 1)}
		s.waits[w] = struct{}{}
		s.answer = make(chan message, 1)
		answer := s.answer
		heard := 0
		for {
			raw, err := s.lines.next()
			if err == nil {
				heard += len(raw)
				err = s.handle(raw)
			}
			if err != nil {
				if len(err.Error()) > 2000 {
					t.Errorf("an error of %d bytes", len(err.Error()))
				}
				break
			}
		}
		if heard > len(said) {
			t.Errorf("heard %d bytes of %d", heard, len(said))
		}
		select {
		case m := <-answer:
			if m.id != 1 || (m.reply == nil) == (m.refusal == nil) {
				t.Errorf("taken for the reply: %+v", m)
			}
		default:
		}
		select {
		case <-w.end:
			if !bytes.Contains(said, []byte("shm0")) && !bytes.Contains(said, []byte(`\u`)) {
				t.Error("a device was released that was not named")
			}
		default:
		}
	})
}

// FuzzBlock gives the picture what a peer may reply to query-block.
func FuzzBlock(f *testing.F) {
	f.Add([]byte(`[]`))
	f.Add([]byte(queryBlock))
	f.Add([]byte(`[{"device": "x", "inserted": {"file": "json:{\"file\": {\"file\": {\"filename\": \"/x\"}}}"}}]`))
	f.Add([]byte(`[{"inserted": {"image": {"filename": "json:{\"file.filename\": \"/x\"}", "full-backing-filename": "/y"}}}, null]`))
	f.Add([]byte(`[{"inserted": {"image": ` + strings.Repeat(`{"filename": "x", "backing-image": `, 300) + `{}` + strings.Repeat(`}`, 300) + `}}]`))
	f.Fuzz(func(t *testing.T, reply []byte) {
		disks, err := decodeDisks(reply)
		if err != nil && (disks != nil || len(err.Error()) > 2000) {
			t.Errorf("%d disks, an error of %d bytes", len(disks), len(err.Error()))
		}
		if len(disks) > maxDisks {
			t.Errorf("%d disks", len(disks))
		}
		for _, d := range disks {
			if len(d.Target) > maxText || len(d.Chain) > maxChain {
				t.Errorf("target of %d bytes, chain of %d", len(d.Target), len(d.Chain))
			}
			for _, path := range d.Chain {
				if len(path) > maxText || path == "" {
					t.Errorf("path of %d bytes", len(path))
				}
			}
		}
	})
}
