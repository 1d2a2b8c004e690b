package api

import "runtime/debug"

// release is set when a package is built: -ldflags "-X github.com/virtswarm/virtswarm/internal/api.release=v1.2.3".
var release string

// Version is the version of the program that runs: that of its package, else as the Go tool stamped it at the build: a
// tag, a pseudo-version of a commit, or "(devel)".
func Version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
