//go:build !bug_early_ack

package hostd

// bugEarlyAck: see the build tag bug_early_ack.
const bugEarlyAck = false
