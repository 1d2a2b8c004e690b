//go:build bug_lost_event

package raft

// bugLostEvent is a deliberate mistake, which hostd/simtest must find: it loses some changes of the catalogue.
const bugLostEvent = true
