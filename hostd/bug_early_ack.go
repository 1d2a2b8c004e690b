//go:build bug_early_ack

package hostd

// bugEarlyAck is a deliberate mistake, which hostd/simtest must find: it acknowledges a publication before its copies are made.
const bugEarlyAck = true
