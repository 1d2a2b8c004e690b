//go:build !race

package simtest

// seeds is how many seeds are run by default.
const seeds = 100
