package reason

import "io/fs"

// Occupied is DestExists for what is at a path where something is to be made. Its hint fits what that is: nobody
// removes a device first.
func Occupied(path string, is fs.FileMode) *Error {
	e := Wrap(DestExists, path, nil)
	switch {
	case is.IsDir():
		return e.WithHint("name a file in that directory")
	case is.Type() == fs.ModeSymlink, is.IsRegular():
		return e
	case is.Type() == fs.ModeDevice:
		return e.WithHint("choose another destination; to write over all of the block device, add `overwrite`")
	}
	return e.WithHint("choose another destination: this is no file; to write into it, have the bytes on standard output: virtswarm pull NAME -")
}
