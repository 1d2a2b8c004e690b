package disk

import (
	"os"
	"path/filepath"
	"strings"
)

// Paths that people type are the kernel's business. Package path/filepath folds them as text: it takes link/../x for
// x, where the kernel follows the link first and then goes up from where it leads. Nothing here folds a "..".

// Abs returns an absolute path that names what path names from the working directory of this process. It drops only
// what no kernel looks at: empty elements and "." in the middle.
func Abs(path string) (string, error) {
	if path == "" {
		return "", &os.PathError{Op: "abs", Path: path, Err: os.ErrNotExist}
	}
	if path[0] != '/' {
		wd, err := os.Getwd() // it may lead through a link too
		if err != nil {
			return "", err
		}
		path = wd + "/" + path
	}
	parts := strings.Split(path, "/")
	kept := parts[:1]
	for i, p := range parts[1:] {
		// A last one says that the path is a directory.
		if last := i == len(parts)-2; last || p != "" && p != "." {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, "/"), nil
}

// Plain returns a path without ".." that names what an absolute path names, for what goes on with it as text. The links
// in front of each ".." must lead somewhere.
func Plain(path string) (string, error) {
	plain := "/"
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".":
		case "..":
			real, err := filepath.EvalSymlinks(plain)
			if err != nil {
				return "", err
			}
			plain = filepath.Dir(real)
		default:
			plain = Join(plain, part)
		}
	}
	return plain, nil
}

// Dir returns the directory in which the kernel looks for the last name of path.
func Dir(path string) string {
	i := strings.LastIndexByte(path, '/')
	switch {
	case i < 0:
		return "."
	case strings.Trim(path[:i], "/") == "":
		return "/"
	}
	return path[:i]
}

// Base returns the last name of path: "" if path ends in a slash.
func Base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// Join returns the path of a name in a directory.
func Join(dir, name string) string {
	if strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}
