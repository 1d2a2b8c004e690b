package control

import (
	"errors"
	"io/fs"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// sourceError explains why a source could not be opened.
func sourceError(err error, path string) error {
	why := reason.SourceUnreadable
	if errors.Is(err, fs.ErrNotExist) {
		why = reason.SourceMissing
	}
	return reason.Wrap(why, path, err)
}
