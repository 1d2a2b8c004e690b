// Package api is the control API of a host: the messages and services (proto/, generated into
// virtswarm/v1), a client, and the reasons for which a call can fail.
//
// It promises that an error keeps its reason, its subject and its hint on the way from the room that
// noticed it to the operator's terminal, and that a reason is one process exit code everywhere: in
// virtswarm, in virtswarmd and in docs/operations.md.
package api

//go:generate ./generate.sh
