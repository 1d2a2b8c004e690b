package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// maxJournal bounds the journal in bytes: some 10,000 paths of the greatest length, far more of real ones.
const maxJournal = 64 << 20

// journal remembers what was put at which path, durably, so that a start which finds it there need not read it. It is
// one JSON object, rewritten at each change, which is as rare as new images are. It is safe for concurrent use.
type journal struct {
	fs   disk.FS
	path string

	mu      sync.Mutex
	entries map[string]entry
}

// entry is what was put at a path, and what tells whether it was changed since.
type entry struct {
	ID       string `json:"id"`
	Size     int64  `json:"size"`     // bytes
	Modified int64  `json:"modified"` // unix nanoseconds
}

func entryOf(id content.Digest, fi fs.FileInfo) entry {
	return entry{ID: id.String(), Size: fi.Size(), Modified: fi.ModTime().UnixNano()}
}

// is says whether a file is as it was put there.
func (e entry) is(fi fs.FileInfo) bool {
	return fi.Mode().IsRegular() && fi.Size() == e.Size && fi.ModTime().UnixNano() == e.Modified
}

func openJournal(files disk.FS, path string) (*journal, error) {
	j := &journal{fs: files, path: path, entries: map[string]entry{}}
	p, err := disk.ReadFile(files, path, maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err == nil {
		err = json.Unmarshal(p, &j.entries)
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of exposed files %s (what it names is verified anew if it is removed): %w", path, err)
	}
	return j, nil
}

func (j *journal) get(path string) (entry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.entries[path]
	return e, ok
}

// put notes what is at a path, and forgets paths at which nothing is any more.
func (j *journal) put(path string, e entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for p := range j.entries {
		if _, err := j.fs.Lstat(p); errors.Is(err, fs.ErrNotExist) {
			delete(j.entries, p)
		}
	}
	j.entries[path] = e
	text, err := json.MarshalIndent(j.entries, "", "\t")
	if err == nil {
		err = disk.WriteFile(j.fs, j.path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note what is at %s: %w", path, err)
	}
	return nil
}
