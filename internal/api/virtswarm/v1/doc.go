// Package virtswarmv1 holds the generated messages of the control API, version 1. Their meaning stands
// in internal/api/proto/virtswarm/v1; this file alone is written by hand.
package virtswarmv1
