package qmp

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// queryBlock is what QEMU 7.2 replies, shortened: a drive of the old kind, one with an id and a backing chain, one
// whose name takes options, an empty tray.
const queryBlock = `[
{"device": "virtio0", "locked": false, "removable": false, "qdev": "/machine/peripheral-anon/device[0]/virtio-backend", "type": "unknown",
 "inserted": {"ro": false, "drv": "raw", "file": "/img/a.raw", "image": {"virtual-size": 1048576, "filename": "/img/a.raw", "format": "raw"}}},
{"device": "", "qdev": "/machine/peripheral/disk0/virtio-backend", "inserted": {"file": "/img/top.qcow2", "backing_file": "mid.qcow2",
 "image": {"filename": "/img/top.qcow2", "backing-filename": "mid.qcow2", "full-backing-filename": "/img/mid.qcow2",
  "backing-image": {"filename": "/img/mid.qcow2", "full-backing-filename": "/img/base.raw", "backing-image": {"filename": "/img/base.raw"}}}}},
{"device": "d2", "qdev": "/machine/peripheral/d2dev", "inserted": {"file": "/img/x.qcow2",
 "image": {"filename": "json:{\"driver\": \"qcow2\", \"file\": {\"driver\": \"throttle\", \"file\": {\"driver\": \"file\", \"filename\": \"/img/x.qcow2\"}}}",
  "full-backing-filename": "/img/unopened.raw"}}},
{"device": "", "qdev": "/machine/unattached/device[3]", "inserted": {"file": "nbd://host/x", "image": {}}},
{"device": "ide1-cd0", "removable": true, "tray_open": false, "type": "unknown"}
]`

func TestDisks(t *testing.T) {
	got, err := decodeDisks([]byte(queryBlock))
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{
		{"virtio0", []string{"/img/a.raw"}},
		{"disk0", []string{"/img/top.qcow2", "/img/mid.qcow2", "/img/base.raw"}},
		{"d2dev", []string{"/img/x.qcow2", "/img/unopened.raw"}},
		{"/machine/unattached/device[3]", []string{"nbd://host/x"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestTooManyDisks(t *testing.T) {
	images := func(n int) string {
		return strings.Repeat(`{"filename": "x", "backing-image": `, n-1) + `{"filename": "x"` + strings.Repeat("}", n)
	}
	one := func(filename string) string {
		return fmt.Sprintf(`[{"inserted": {"image": {"filename": "%s"}}}]`, filename)
	}
	for what, c := range map[string]struct {
		reply string
		ok    bool
	}{
		"chain":          {`[{"inserted": {"image": ` + images(maxChain) + `}}]`, true},
		"too long chain": {`[{"inserted": {"image": ` + images(maxChain+1) + `}}]`, false},
		"disks":          {`[` + strings.Repeat(`{"inserted": {}},`, maxDisks-1) + `{}]`, true},
		"too many disks": {`[` + strings.Repeat(`{"inserted": {}},`, maxDisks) + `{}]`, false},
		"path":           {one(strings.Repeat("x", maxText)), true},
		"too long path":  {one(strings.Repeat("x", maxText+1)), false},
	} {
		if _, err := decodeDisks([]byte(c.reply)); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
