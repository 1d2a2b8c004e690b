// Package disktest has file systems for tests. [Memory] can be thrown away and works in a testing/synctest bubble.
// [Fault] wraps it or disk.OS, fails or tears the operation that a test points at, and loses what was not synced, as a
// power failure does. [Ghost] is the disk of a daemon that a Fault has killed and whose goroutines live on for a
// moment. The tests of this package hold all of them, and disk.OS, against what package disk promises.
package disktest
