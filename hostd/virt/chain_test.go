package virt

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// qcow writes the header of a version 3 image.
func qcow(backing, format string) []byte {
	b := make([]byte, 104, 4096)
	copy(b, qcowMagic)
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint32(b[100:], 104)
	extension := func(kind uint32, data string) {
		b = binary.BigEndian.AppendUint32(b, kind)
		b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
		b = append(b, data...)
		b = append(b, make([]byte, -len(data)&7)...)
	}
	extension(0x6803f857, strings.Repeat("f", 48)) // feature names
	if format != "" {
		extension(qcowExtFormat, format)
	}
	extension(0, "")
	if backing != "" {
		binary.BigEndian.PutUint64(b[8:], uint64(len(b)))
		binary.BigEndian.PutUint32(b[16:], uint32(len(backing)))
		b = append(b, backing...)
	}
	return b
}

func TestBackingChain(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, data := range map[string][]byte{
		"a": qcow("b", "qcow2"), "b": qcow("file:sub/c", "qcow2"), "sub/c": qcow("../base", "raw"), "base": qcow("/etc/shadow", "qcow2"),
		"absolute": qcow(at("b"), "qcow2"), "alone": qcow("", ""), "self": qcow("self", "qcow2"), "ring": qcow("ring2", "qcow2"), "ring2": qcow("ring", "qcow2"),
		"nbd": qcow("nbd://evil/x", "raw"), "json": qcow(`json:{"driver":"raw"}`, "raw"), "unsaid": qcow("b", ""), "dangling": qcow("nothing", "qcow2"),
		"text": []byte("hello"), "fifo-backed": qcow("fifo", "qcow2"), "colon": qcow("./a:b", "raw"), "cut": qcow("b", "qcow2")[:180],
	} {
		if err := errors.Join(os.MkdirAll(at("sub"), 0o755), os.WriteFile(at(name), data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"a": {"b", "sub/c", "base"}, "absolute": {"b", "sub/c", "base"}, "alone": nil, "self": {"self"}, "ring": {"ring2", "ring"},
		"nbd": nil, "json": nil, "unsaid": {"b"}, "dangling": {"nothing"}, "text": nil, "fifo-backed": {"fifo"}, "missing": nil, "fifo": nil,
		"colon": {"a:b"}, "cut": nil,
	} {
		var got []string
		for _, path := range newHeaders().below(at(name)) {
			rel, _ := filepath.Rel(dir, path)
			got = append(got, rel)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s stands on %q, want %q", name, got, want)
		}
	}
}

// TestChainOfDefinition lengthens only what libvirt leaves open.
func TestChainOfDefinition(t *testing.T) {
	top := filepath.Join(t.TempDir(), "top")
	if err := os.WriteFile(top, qcow("/base\x01", "raw"), 0o644); err != nil {
		t.Fatal(err)
	}
	disk := func(format, rest string) string {
		return disks(`<disk><driver type='` + format + `'/><source file='` + top + `'/>` + rest + `<target dev='vda'/></disk>`)
	}
	for name, tt := range map[string]struct {
		text   string
		faults int
	}{"raw": {disk("raw", ""), 0}, "ended": {disk("qcow2", "<backingStore/>"), 0}, "a bad name": {disk("qcow2", ""), 1}} {
		d, err := ParseDomain([]byte(tt.text))
		if err != nil {
			t.Fatal(err)
		}
		newHeaders().complete(&d)
		if len(d.Disks[0].Chain) != 1 || len(d.Faults) != tt.faults {
			t.Errorf("%s: %q, %v", name, d.Disks[0].Chain, d.Faults)
		}
	}
	if err := os.WriteFile(top, qcow("/base", "raw"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, _ := ParseDomain([]byte(disk("qcow2", "")))
	if newHeaders().complete(&d); !slices.Equal(d.Disks[0].Chain, []string{top, "/base"}) {
		t.Errorf("chain %q", d.Disks[0].Chain)
	}
	full := newHeaders()
	for range maxHanging {
		full.slots <- struct{}{}
	}
	if got := full.below(top); got != nil {
		t.Errorf("read %q although all reads hang", got)
	}
}

// TestBackingChainIsQEMUs asks qemu-img.
func TestBackingChainIsQEMUs(t *testing.T) {
	qemuImg, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("needs qemu-img (Debian's qemu-utils)")
	}
	dir := t.TempDir()
	run := func(args ...string) []byte {
		out, err := exec.Command(qemuImg, args...).Output()
		if err != nil {
			t.Fatalf("qemu-img %q: %v", args, err)
		}
		return out
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	run("create", "-q", "-f", "raw", at("base.raw"), "1M")
	run("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", "base.raw", "-F", "raw", at("old.qcow2"))
	run("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "-b", at("old.qcow2"), "-F", "qcow2", at("mid.qcow2"))
	run("create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", at("top.qcow2"))
	var infos []struct{ Filename string }
	if err := json.Unmarshal(run("info", "--backing-chain", "--output=json", "-U", at("top.qcow2")), &infos); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, info := range infos[1:] {
		want = append(want, info.Filename)
	}
	if got := newHeaders().below(at("top.qcow2")); len(got) != 3 || !slices.Equal(got, want) {
		t.Errorf("got %q, qemu-img says %q", got, want)
	}
}

// TestBackingFileBesideALink: what an image stands on is found from where a link leads, not from where it stands.
func TestBackingFileBesideALink(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	err = errors.Join(os.MkdirAll(at("real/deep"), 0o700), os.Symlink("real/deep", at("link")),
		os.WriteFile(at("real/base"), nil, 0o600), os.WriteFile(at("base"), nil, 0o600),
		os.WriteFile(at("real/deep/top"), qcow("../base", "raw"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := newHeaders().below(at("link/top")), []string{at("real/base")}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzQcow(f *testing.F) {
	f.Add(qcow("base", "raw"))
	f.Add(qcow("", ""))
	f.Fuzz(func(t *testing.T, image []byte) {
		name, format, err := parseQcow(bytes.NewReader(image))
		if len(name) > qcowMaxName || len(format) > qcowHead || err != nil && name+format != "" {
			t.Fatalf("name of %d bytes, format %q, error %v", len(name), format, err)
		}
	})
}

func BenchmarkBackingChain(b *testing.B) {
	dir := b.TempDir()
	top := filepath.Join(dir, "top")
	if err := errors.Join(os.WriteFile(top, qcow("mid", "qcow2"), 0o644), os.WriteFile(filepath.Join(dir, "mid"), qcow("base", "raw"), 0o644)); err != nil {
		b.Fatal(err)
	}
	h := newHeaders()
	for b.Loop() {
		if len(h.below(top)) != 2 {
			b.Fatal("no chain")
		}
	}
}
