//go:build !bug_early_rename

package disk

// bugEarlyRename: see the build tag bug_early_rename.
const bugEarlyRename = false
