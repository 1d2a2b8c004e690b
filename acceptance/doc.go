// Package acceptance tests virtswarm from outside: real programs, real sockets, real disks, and what an operator would
// type. It knows nothing of the rooms inside.
package acceptance
