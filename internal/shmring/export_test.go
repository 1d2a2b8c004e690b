package shmring

// What the test of links looks into; it cannot be in this package, as linktest imports link, which imports this one.
var (
	NewPair = newPair
	Mute    = mute
)

// MinTimeout is the shortest one.
const MinTimeout = minTimeout
