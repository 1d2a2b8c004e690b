//go:build !bug_skip_fsync

package store

// bugSkipFsync: see the build tag bug_skip_fsync.
const bugSkipFsync = false
