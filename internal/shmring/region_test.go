package shmring

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCreate(t *testing.T) {
	path := newRegion(t, MinSize)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != MinSize || info.Mode() != 0o600 {
		t.Errorf("%d bytes, mode %v", info.Size(), info.Mode())
	}
	if err := Create(path, MinSize, -1, -1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	for _, size := range []int64{-1, 0, MinSize - 4096, MinSize + 4096, 3 << 20, 2 * MaxSize} {
		path := filepath.Join(t.TempDir(), "region")
		if err := Create(path, size, -1, -1); err == nil {
			t.Errorf("%d bytes are accepted", size)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%d bytes leave a file behind", size)
		}
	}
}

func TestLayout(t *testing.T) {
	for _, size := range []int64{MinSize, MinSize + pageSize, DefaultSize, DefaultSize + 5*pageSize, MaxSize} {
		for _, channels := range []int{1, 2, 3, 4, 7, 64} {
			l, err := newLayout(size, channels)
			if err != nil {
				if size > MinSize+pageSize || channels < 64 {
					t.Errorf("%d bytes, %d channels: %v", size, channels, err)
				}
				continue
			}
			if !l.valid(size) || l.valid(size-pageSize) {
				t.Errorf("%+v: valid %v, in less %v", l, l.valid(size), l.valid(size-pageSize))
			}
			if end := int64(l.ring(channels-1, 1) + l.capacity); end > size || end+int64(2*channels*pageSize) <= size {
				t.Errorf("%d bytes, %d channels: ends at %d", size, channels, end)
			}
		}
	}
	for _, channels := range []int{-1, 0, 65} {
		if _, err := newLayout(DefaultSize, channels); err == nil {
			t.Errorf("%d channels are accepted", channels)
		}
	}
	for _, l := range []layout{
		{size: DefaultSize, channels: 0, capacity: pageSize},
		{size: DefaultSize, channels: 65, capacity: pageSize},
		{size: DefaultSize, channels: 1, capacity: 0},
		{size: DefaultSize, channels: 1, capacity: -pageSize},
		{size: DefaultSize, channels: 1, capacity: pageSize + 1},
		{size: DefaultSize, channels: 1, capacity: 8 << 20},
		{size: DefaultSize, channels: 1, capacity: 1 << 62},
		{size: 2 * DefaultSize, channels: 1, capacity: pageSize},
		{size: -1, channels: 1, capacity: pageSize},
		{size: 0, channels: 1, capacity: pageSize},
	} {
		if l.valid(DefaultSize) {
			t.Errorf("%+v is valid", l)
		}
	}
}

func TestProbe(t *testing.T) {
	path := newRegion(t, MinSize)
	if _, err := Probe(path); !errors.Is(err, ErrNoRegion) {
		t.Errorf("before it is served: %v", err)
	}
	if _, err := Dial(t.Context(), path, Options{}); !errors.Is(err, ErrNoRegion) {
		t.Errorf("dial before it is served: %v", err)
	}
	want := Info{Size: MinSize, Channels: 3, UUID: [16]byte{1, 2, 3, 15: 9}, Served: true}
	l := newListener(t, path, Options{UUID: want.UUID, Channels: 3})
	if got, err := Probe(path); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if l.Channels() != 3 || l.Addr().Network() != "shm" || l.Addr().String() != path {
		t.Errorf("%d channels at %v", l.Channels(), l.Addr())
	}
	l.Close()
	want.Served = false
	if got, err := Probe(path); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Dial(t.Context(), path, Options{}); !errors.Is(err, ErrNotServed) {
		t.Errorf("dial when it is not served: %v", err)
	}
}

// TestHeaderIsChecked has a guest meet headers that do not fit.
func TestHeaderIsChecked(t *testing.T) {
	path := newRegion(t, MinSize)
	l := newListener(t, path, Options{})
	l.muted.Store(true) // or it would write its header again
	for off, value := range map[int]uint64{
		offMagic:    magic + 1,
		offVersion:  version + 1 | 4<<32,
		offSize:     2 * MinSize,
		offCapacity: MinSize,
	} {
		was := l.m.word(off).Swap(value)
		if _, err := Probe(path); !errors.Is(err, ErrNoRegion) {
			t.Errorf("probe with %#x at %d: %v", value, off, err)
		}
		if _, err := Dial(t.Context(), path, Options{}); !errors.Is(err, ErrNoRegion) {
			t.Errorf("dial with %#x at %d: %v", value, off, err)
		}
		l.m.word(off).Store(was)
	}
	if _, err := Probe(path); err != nil {
		t.Error(err)
	}
}

func TestNotARegion(t *testing.T) {
	dir := t.TempDir()
	small, fifo := filepath.Join(dir, "small"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(small, make([]byte, pageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{small, fifo, dir, filepath.Join(dir, "none")} {
		if l, err := Listen(path, Options{}); err == nil {
			t.Errorf("listen at %s succeeds", path)
			l.Close()
		}
		if _, err := Probe(path); err == nil {
			t.Errorf("probe %s succeeds", path)
		}
		if _, err := Dial(t.Context(), path, Options{}); err == nil {
			t.Errorf("dial %s succeeds", path)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(newRegion(t, MinSize), link); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(link, Options{}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("listen at a symbolic link: %v", err)
	}
	if _, err := Listen(newRegion(t, MinSize), Options{Channels: 65}); err == nil {
		t.Error("65 channels are accepted")
	}
}

func TestFind(t *testing.T) {
	sysfs = t.TempDir()
	t.Cleanup(func() { sysfs = "/sys" })
	if found, err := Find(); err != nil || found != nil {
		t.Errorf("without devices: %v, %v", found, err)
	}
	device := func(bdf, vendor, device string, bar bool) string {
		dir := filepath.Join(sysfs, "bus/pci/devices", bdf)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{"vendor": vendor + "\n", "device": device + "\n", "enable": "0\n"}
		if bar {
			files["resource2"] = string(make([]byte, MinSize))
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return filepath.Join(dir, "resource2")
	}
	device("0000:00:01.0", "0x1af4", "0x1000", true)
	device("0000:00:02.0", "0x8086", "0x1110", true)
	device("0000:00:03.0", "0x1af4", "0x1110", false)
	want := []string{device("0000:00:04.0", "0x1af4", "0x1110", true), device("0000:00:11.0", "0x1af4", "0x1110", true)}
	found, err := Find()
	if !errors.Is(err, ErrNoPlace) || !slices.Equal(found, want) {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := Probe(want[0]); !errors.Is(err, ErrNoRegion) {
		t.Errorf("probe: %v", err)
	}
	if !holds(filepath.Join(filepath.Dir(want[0]), "enable"), "1") {
		t.Error("the device is not enabled")
	}
	if !holds(filepath.Join(filepath.Dir(want[1]), "enable"), "0") {
		t.Error("another device is enabled")
	}
}
