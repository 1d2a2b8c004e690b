//go:build !bug_skip_verify

package store

// bugSkipVerify: see the build tag bug_skip_verify.
const bugSkipVerify = false
