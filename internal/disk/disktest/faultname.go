package disktest

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// nameChange is a change of names that is not durable yet. Its paths are kept as they are now, whatever was
// renamed above them since.
type nameChange struct {
	path  string // what appeared; or what vanished, if it was removed
	from  string // where it was before, if it was renamed
	grave string // where lies what stood at path before, if something did
	gone  bool   // path was removed
}

// changed notes a change. The caller holds mu.
func (f *Fault) changed(c *nameChange) { f.names = append(f.names, c) }

// rename moves from to to by the way do, keeping what do may replace.
func (f *Fault) rename(from, to string, do func(from, to string) error) error {
	c := &nameChange{path: to, from: from}
	if st, err := f.under.Lstat(to); err == nil && !st.IsDir() {
		c.grave = f.grave()
		if err := f.under.Link(to, c.grave); err != nil {
			return err
		}
	}
	if err := do(from, to); err != nil {
		if c.grave != "" {
			err = errors.Join(err, f.under.Remove(c.grave))
		}
		return err
	}
	if c.grave != "" {
		f.moved(to, c.grave) // what was changed before is the file that lies there now
	}
	f.moved(from, to)
	f.changed(c)
	return nil
}

// bury removes path, so that it can come back.
func (f *Fault) bury(path string) error {
	c := &nameChange{path: path, gone: true, grave: f.grave()}
	if err := f.under.Rename(path, c.grave); err != nil {
		return err
	}
	f.moved(path, c.grave)
	f.changed(c)
	return nil
}

// moved rewrites the paths of changes below from, and of the change that put there what has moved. A path that
// is only the place where something was before is another matter.
func (f *Fault) moved(from, to string) {
	for _, c := range f.names {
		if c.path == from && !c.gone {
			c.path = to
		}
		for _, p := range []*string{&c.path, &c.from} {
			if strings.HasPrefix(*p, from+"/") {
				*p = to + (*p)[len(from):]
			}
		}
	}
}

// settle makes the changes in one directory durable.
func (f *Fault) settle(dir string) error {
	graves := f.forget(func(c *nameChange) bool { return filepath.Dir(c.path) == filepath.Clean(dir) })
	var errs []error
	for len(graves) > 0 {
		grave := graves[0]
		errs = append(errs, f.under.RemoveAll(grave))
		// What was changed of what lay there cannot come back either.
		graves = append(graves[1:], f.forget(func(c *nameChange) bool { return c.path == grave || strings.HasPrefix(c.path, grave+"/") })...)
	}
	return errors.Join(errs...)
}

// forget takes changes off the list of those that are not durable, and returns their graves.
func (f *Fault) forget(which func(*nameChange) bool) (graves []string) {
	f.names = slices.DeleteFunc(f.names, func(c *nameChange) bool {
		if !which(c) {
			return false
		}
		if c.grave != "" {
			graves = append(graves, c.grave)
		}
		return true
	})
	return graves
}

// undo brings back the names from before c, which is the newest change left.
func (f *Fault) undo(c *nameChange) error {
	switch {
	case c.gone:
		f.moved(c.grave, c.path)
		return f.under.Rename(c.grave, c.path)
	case c.from != "":
		if err := f.under.Rename(c.path, c.from); err != nil {
			return err
		}
		f.moved(c.path, c.from)
		if c.grave == "" {
			return nil
		}
		f.moved(c.grave, c.path)
		return f.under.Rename(c.grave, c.path)
	}
	err := f.under.RemoveAll(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
