package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// An exported directory has each file at the path that is its name, and a list of all: docs/formats.md.
const (
	ownPrefix = ".virtswarm-" // of what stands in it beside the files
	listName  = ownPrefix + "list"
	oddNames  = ownPrefix + "names" // a directory of files whose names are no paths there
	maxName   = 255                 // bytes of an element of a path
	// maxLine bounds a line of the list, in bytes: a name and a path of 512 each, and a few numbers.
	maxLine = 64 << 10
)

// listed is a line of the list: what a file was when it was exported.
type listed struct {
	Name      string `json:"name"`
	ID        string `json:"id"`
	Size      uint64 `json:"size"`
	ChunkSize uint32 `json:"chunk_size"`
	Replicas  uint32 `json:"replicas"` // 0 = all
	Guests    string `json:"guests"`
	Path      string `json:"path"` // below the directory
}

func listing(f *v1.File) listed {
	return listed{Name: f.GetName(), ID: f.GetId(), Size: f.GetSize(), ChunkSize: f.GetChunkSize(), Replicas: f.GetReplicas(), Guests: f.GetGuests()}
}

// readList reads the list of a directory, in the order of its lines. Of a name that is there twice the last line holds,
// and a line that was cut off by a crash counts as none.
func readList(dir string) ([]listed, error) {
	path := disk.Join(dir, listName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.Wrap(reason.SourceUnreadable, path, err)
	}
	defer f.Close()
	var all []listed
	at := map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var l listed
		if json.Unmarshal(lines.Bytes(), &l) != nil || l.Name == "" || l.Path == "" {
			continue
		}
		if i, again := at[l.Name]; again {
			all[i] = l
			continue
		}
		at[l.Name] = len(all)
		all = append(all, l)
	}
	if err := lines.Err(); err != nil {
		return nil, reason.Wrap(reason.SourceUnreadable, path, err)
	}
	return all, nil
}

// appendList adds a line, and has it on the disk before it returns.
func appendList(dir string, l listed) error {
	path := disk.Join(dir, listName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return dirError(err, path)
	}
	var line bytes.Buffer
	line.WriteByte('\n') // behind a line that a crash has cut off
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	err = enc.Encode(l)
	if err == nil {
		_, err = f.Write(line.Bytes())
	}
	return dirError(errors.Join(err, f.Sync(), f.Close()), path)
}

// dirError explains what the file system has against the directory of an export.
func dirError(err error, path string) error {
	if err == nil {
		return nil
	}
	why := reason.Of(err)
	if why == reason.Unexpected || why == reason.DiskError {
		why = reason.DestUnusable
	}
	return reason.Wrap(why, path, err).WithHint("see that the directory can be written, and has room; then repeat: what was copied is not copied again")
}

// oddPath is where a file stands whose name is no path in the directory.
func oddPath(name string) string {
	return oddNames + "/" + content.Sum([]byte(name)).Hex()
}

// isOdd reports whether a name is no path in any directory: it looks like our own, or a part of it is too long.
func isOdd(name string) bool {
	if strings.HasPrefix(name, ownPrefix) {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName {
			return true
		}
	}
	return false
}

// idOf hashes a file of this machine as the cluster does.
func idOf(ctx context.Context, path string, chunkSize uint32) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	m, err := content.ChunkFile(ctx, f, st.Size(), content.ChunkOptions{ChunkSize: int(chunkSize)})
	if err != nil {
		return "", err
	}
	return m.ID().String(), nil
}

// copying tells of an export or an import, file by file.
type copying struct {
	*cli
	verb   string // "exported"
	quiet  bool   // standard output is the archive
	meter  *meter
	sum    v1.CopyProgress
	failed error // the first
}

func (c *cli) newCopying(verb string, quiet bool) *copying {
	return &copying{cli: c, verb: verb, quiet: quiet, meter: c.meter()}
}

// tell says what became of a file. It returns an error only if the rest must not be tried.
func (c *copying) tell(ctx context.Context, p *v1.CopyProgress, err error) error {
	c.meter.clear()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.Phase = v1.CopyPhase_COPY_PHASE_FILE
	c.sum.Files++
	switch {
	case err != nil:
		c.sum.FailedFiles++
		e := api.AsError(err)
		if c.failed == nil {
			c.failed = e
		}
		p.Error = detail(e)
		if !c.json {
			c.note("not %s: %s: %v", c.verb, p.GetName(), reason.Flags(e.Error()))
		}
		if e.Reason == reason.Unreachable { // so it would be for each of the others
			return e
		}
	case p.GetPresent():
		c.sum.PresentFiles++
	default:
		c.sum.Bytes += p.GetSize()
	}
	if c.json && !c.quiet {
		return c.printJSON(p)
	}
	return nil
}

// end tells how it went as a whole.
func (c *copying) end() error {
	c.meter.clear()
	c.sum.Phase = v1.CopyPhase_COPY_PHASE_DONE
	switch {
	case c.quiet:
	case c.json:
		if err := c.printJSON(&c.sum); err != nil {
			return err
		}
	default:
		made := c.sum.GetFiles() - c.sum.GetPresentFiles() - c.sum.GetFailedFiles()
		if _, err := fmt.Fprintf(c.stdout, "%s %s, %s; %d were there already\n", c.verb, plural(made, "file"), size(c.sum.GetBytes()), c.sum.GetPresentFiles()); err != nil {
			return err
		}
	}
	if c.failed == nil {
		return nil
	}
	e := api.AsError(c.failed)
	return reason.Wrap(e.Reason, plural(c.sum.GetFailedFiles(), "file")+" not "+c.verb, fmt.Errorf("the first: %w", c.failed)).
		WithHint("do what is said about each, then repeat the command: what was copied is not copied again")
}
