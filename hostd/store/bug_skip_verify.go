//go:build bug_skip_verify

package store

// bugSkipVerify is a deliberate mistake, which hostd/simtest must find: it takes in and gives out chunks without looking at them.
const bugSkipVerify = true
