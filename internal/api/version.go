package api

import "runtime/debug"

// Version is the version of the program that runs, as the Go tool stamped it at the build: a tag, a pseudo-version of
// a commit, or "(devel)".
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
