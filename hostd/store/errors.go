package store

import (
	"fmt"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// Errors of this package. What a chunk fails to match on writing is content.ErrMismatch.
var (
	ErrDamaged    = reason.Sentinel(reason.DamagedStore, "store is damaged")        // Open; the message names the path and what to do
	ErrLocked     = disk.ErrLocked                                                  // Open; another process has the store open
	ErrClosed     = reason.Sentinel(reason.Unreachable, "store is closed")          // any operation after Close
	ErrNoSpace    = disk.ErrNoSpace                                                 // disk or quota; the message says which, what was needed and what was free
	ErrUnknown    = reason.Sentinel(reason.NotFound, "not in the store")            // no file of this id
	ErrRemoved    = reason.Sentinel(reason.NotFound, "file was removed from store") // an operation that began after Remove
	ErrMissing    = reason.Sentinel(reason.NoHolder, "chunk is not held")           // reading, exporting what is not complete
	ErrInUse      = reason.Sentinel(reason.InUse, "file is in use")                 // Drop
	ErrLinked     = reason.Sentinel(reason.InUse, "data file has another name")     // Drop, after an export by hard link
	ErrCorrupt    = reason.Sentinel(reason.DamagedData, "chunk is damaged on disk") // a CorruptError is around it
	ErrChanged    = reason.Sentinel(reason.SourceChanged, "file changed while it was read")
	ErrUnreadable = reason.Sentinel(reason.SourceUnreadable, "source cannot be read")
	ErrTooLarge   = reason.Sentinel(reason.Usage, "larger than its chunks can make it")
	ErrNotRegular = reason.Sentinel(reason.SourceNotRegular, "not a regular file")
	ErrExists     = reason.Sentinel(reason.DestExists, "destination exists")
	ErrDest       = reason.Sentinel(reason.DestUnusable, "destination cannot be written")
)

// CorruptError says which chunks of a file were found not to match their digests. They are no longer marked as
// held: fetch them again and repeat what failed. It is an ErrCorrupt.
type CorruptError struct {
	File   content.Digest
	Chunks []int
}

// Error implements error.
func (e *CorruptError) Error() string {
	if len(e.Chunks) == 1 {
		return fmt.Sprintf("chunk %d of %s: %v", e.Chunks[0], e.File.Short(), ErrCorrupt)
	}
	return fmt.Sprintf("%d chunks of %s, the first %d: %v", len(e.Chunks), e.File.Short(), e.Chunks[0], ErrCorrupt)
}

// Unwrap makes it an ErrCorrupt.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }
