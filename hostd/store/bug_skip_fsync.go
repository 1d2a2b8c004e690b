//go:build bug_skip_fsync

package store

// bugSkipFsync is a deliberate mistake, which hostd/simtest must find: it marks chunks as durable that were not synced.
const bugSkipFsync = true
