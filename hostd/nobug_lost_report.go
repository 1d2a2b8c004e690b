//go:build !bug_lost_report

package hostd

// bugLostReport: see the build tag bug_lost_report.
const bugLostReport = false
