package nested

import (
	"bufio"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"
)

// An archive is an initramfs: a cpio archive of the kind that Linux reads ("newc"), not compressed. Each entry is
//
//	"070701" | 13 numbers of 8 hex digits | name NUL | padding to 4 | content | padding to 4
//
// as Documentation/driver-api/early-userspace/buffer-format.rst of the kernel has it.
type archive struct {
	f    *os.File
	w    *bufio.Writer
	seen map[string]bool
	err  error // the first one
}

func createArchive(file string) (*archive, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("create initramfs: %w", err)
	}
	return &archive{f: f, w: bufio.NewWriterSize(f, 1<<20), seen: map[string]bool{"/": true}}, nil
}

// close writes the end and returns the first error of all.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, nil)
	if err := a.w.Flush(); a.err == nil {
		a.err = err
	}
	if err := a.f.Close(); a.err == nil {
		a.err = err
	}
	if a.err != nil {
		return fmt.Errorf("write initramfs: %w", a.err)
	}
	return nil
}

func (a *archive) entry(name string, mode, size int64, content io.Reader) {
	if a.err != nil {
		return
	}
	const links, ids, devices, check = 1, 0, 0, 0
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", len(a.seen), mode, ids, ids, links, 0,
		size, devices, devices, devices, devices, len(name)+1, check, name)
	a.padded(strings.NewReader(head), int64(len(head)))
	if content != nil {
		a.padded(content, size)
	}
}

func (a *archive) padded(r io.Reader, n int64) {
	if a.err != nil {
		return
	}
	if _, a.err = io.CopyN(a.w, r, n); a.err == nil {
		_, a.err = a.w.WriteString("\x00\x00\x00"[:(4-n%4)%4])
	}
}

// add says that an entry is not there yet, and makes the directories above it.
func (a *archive) add(name string) bool {
	if a.seen[name] {
		return false
	}
	a.dir(path.Dir(name))
	a.seen[name] = true
	return true
}

func (a *archive) dir(name string) {
	if a.add(name) {
		a.entry(name[1:], 0o040755, 0, nil)
	}
}

// text adds a file that anybody may run.
func (a *archive) text(name, content string) {
	if a.add(name) {
		a.entry(name[1:], 0o100755, int64(len(content)), strings.NewReader(content))
	}
}

// link adds a symbolic link.
func (a *archive) link(name, to string) {
	if a.add(name) {
		a.entry(name[1:], 0o120777, int64(len(to)), strings.NewReader(to))
	}
}

// file adds a file of this machine; of a program or library also the libraries that it needs, at their own paths.
func (a *archive) file(name, from string) {
	if a.err != nil || !a.add(name) {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "add", Path: from, Err: fs.ErrInvalid}
	}
	if err != nil {
		a.err = err
		return
	}
	a.entry(name[1:], 0o100755, info.Size(), f)
	if a.err == nil && dynamic(f) {
		a.libraries(from)
	}
}

// dynamic says whether a program or library needs others.
func dynamic(f io.ReaderAt) bool {
	e, err := elf.NewFile(f)
	if err != nil {
		return false
	}
	needs, err := e.ImportedLibraries()
	return err == nil && len(needs) > 0
}

// libraries adds what the dynamic loader would load, and the loader.
func (a *archive) libraries(of string) {
	out, err := exec.Command("ldd", of).Output()
	if err != nil {
		a.err = fmt.Errorf("ldd %s: %w", of, err)
		return
	}
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				a.file(word, word)
			}
		}
	}
}
