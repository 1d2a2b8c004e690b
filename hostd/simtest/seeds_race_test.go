//go:build race

package simtest

// seeds is how many seeds are run by default: the race detector makes each ten times as dear.
const seeds = 12
