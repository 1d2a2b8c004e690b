//go:build bug_early_rename

package disk

// bugEarlyRename is a deliberate mistake, which hostd/simtest must find: it gives a file its name before its bytes are durable.
const bugEarlyRename = true
