// Package disk is the file-system seam: what the rooms that keep bytes need of a file system, as named
// operations, so that one exact step can be made to fail in a test.
//
// [OS] is the real thing; package disktest has those for tests. Code above decides the order of operations and knows
// which ones make others durable; this package only promises what each does on its own.
//
// What is durable when: the bytes of a file after File.Sync; its name (created, renamed, linked, removed) after
// SyncDir of the directory. Errors are those of package os and wrap the cause; a full disk or quota is also an
// [ErrNoSpace], a name that is taken an fs.ErrExist.
package disk
