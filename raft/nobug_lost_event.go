//go:build !bug_lost_event

package raft

// bugLostEvent: see the build tag bug_lost_event.
const bugLostEvent = false
