//go:build bug_lost_report

package hostd

// bugLostReport is a deliberate mistake, which hostd/simtest must find: it takes some reports of domains for told that it never sent.
const bugLostReport = true
