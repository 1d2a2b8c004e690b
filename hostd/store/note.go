package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// Limits of a note. What exceeds them is left out when a note is written, and makes one that is read damaged.
const (
	MaxNoteNames = 64      // names of one content
	maxNoteText  = 512     // bytes of any text in a note
	maxNote      = 1 << 18 // bytes: 64 names, each text escaped to twice its length
)

// errNote is wrapped by what is wrong with a note; such a note is ignored.
var errNote = errors.New("bad note")

// Note is what a store remembers of a content beside its bytes: what the catalogue last said of it. It is a hint for
// the day on which no catalogue names the content any more. It is written without a sync: a loss of power may lose it,
// and a damaged one counts as none.
type Note struct {
	// Cluster is the id of the cluster whose catalogue gave the names, or whose store the content was found in.
	Cluster string `json:"cluster"`
	// Seen is the index of that catalogue when the names were noted: of two notes of one cluster, the higher is right.
	Seen uint64 `json:"seen"`
	// StraySince is the time, in Unix seconds, since which no catalogue names the content; 0 while one does.
	StraySince int64       `json:"stray_since"`
	Names      []NotedName `json:"names"`
}

// NotedName is a name that a content had, with what was ordered for it.
type NotedName struct {
	Name      string `json:"name"`
	Replicas  int    `json:"replicas"`
	Guests    string `json:"guests"`
	Publisher string `json:"publisher"`
	At        int64  `json:"at"`    // Unix seconds of the publication
	Index     uint64 `json:"index"` // of the publication in the catalogue's log
}

// Equal reports whether two notes say the same, but for when they were made.
func (n Note) Equal(o Note) bool {
	return n.Cluster == o.Cluster && n.StraySince == o.StraySince && slices.Equal(n.Names, o.Names)
}

// noteRecord is a note as it stands on disk.
type noteRecord struct {
	File content.Digest `json:"file"`
	Note
}

// encodeNote makes the two lines of a note: the record, and its digest.
func encodeNote(file content.Digest, n Note) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(noteRecord{file, n}); err != nil {
		return nil, err
	}
	line := b.Bytes()[:b.Len()-1]
	fmt.Fprintf(&b, "%s\n", content.Sum(line))
	if b.Len() > maxNote {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errNote, b.Len(), maxNote)
	}
	return b.Bytes(), nil
}

// decodeNote reads what encodeNote made for the same file.
func decodeNote(file content.Digest, p []byte) (Note, error) {
	line, rest, ok := bytes.Cut(p, []byte{'\n'})
	if !ok || len(p) > maxNote || string(rest) != content.Sum(line).String()+"\n" {
		return Note{}, fmt.Errorf("%w: its digest does not fit", errNote)
	}
	var r noteRecord
	dec := json.NewDecoder(bytes.NewReader(line))
	if err := dec.Decode(&r); err != nil {
		return Note{}, fmt.Errorf("%w: %w", errNote, err)
	}
	if r.File != file {
		return Note{}, fmt.Errorf("%w: it is of %s", errNote, r.File)
	}
	if !r.Note.sound() {
		return Note{}, fmt.Errorf("%w: a value is out of bounds", errNote)
	}
	return r.Note, nil
}

// sound reports whether a note keeps to its limits.
func (n Note) sound() bool {
	if len(n.Names) > MaxNoteNames || !soundText(n.Cluster) || n.StraySince < 0 {
		return false
	}
	for _, v := range n.Names {
		if !soundText(v.Name) || !soundText(v.Guests) || !soundText(v.Publisher) || v.Replicas < 0 {
			return false
		}
	}
	return true
}

func soundText(s string) bool { return len(s) <= maxNoteText && utf8.ValidString(s) }

// Note returns what is remembered of the file; the zero Note if nothing is.
func (f *File) Note() Note {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.note
}

// SetNote remembers n, on disk too unless it says what is remembered already.
//
// Errors: those of the disk, after which the old note holds; ErrRemoved, ErrClosed.
func (f *File) SetNote(n Note) error {
	if len(n.Names) > MaxNoteNames {
		n.Names = n.Names[:MaxNoteNames]
	}
	f.noting.Lock()
	defer f.noting.Unlock()
	if err := f.whyGone(); err != nil {
		return fmt.Errorf("note %s: %w", f.id.Short(), err)
	}
	if f.Note().Equal(n) {
		return nil
	}
	if !n.sound() {
		return fmt.Errorf("note %s: %w: a value is out of bounds", f.id.Short(), errNote)
	}
	p, err := encodeNote(f.id, n)
	if err == nil {
		err = writeNote(f.store.fs, noteIn(f.dir), p)
	}
	if err != nil {
		return fmt.Errorf("note %s: %w", f.id.Short(), f.store.explain(err, 0))
	}
	f.mu.Lock()
	f.note = n
	f.mu.Unlock()
	return nil
}

// writeNote puts a note in the place of an older one at once, and syncs nothing: a hint is not worth a sync.
func writeNote(files disk.FS, path string, p []byte) (err error) {
	next := path + ".new"
	w, err := files.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	_, err = w.WriteAt(p, 0)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return files.Rename(next, path)
}

// loadNote reads the note. One that cannot be read is not missed.
func (f *File) loadNote() {
	p, err := disk.ReadFile(f.store.fs, noteIn(f.dir), maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		f.note, err = decodeNote(f.id, p)
	}
	if err != nil {
		f.store.log.Info("what was noted of a file is lost", "file", f.id, "error", err)
	}
}
