package reason

import (
	"regexp"
	"strings"
)

var field = regexp.MustCompile("`([a-z][a-z_]*)`")

// Flags replaces each field of a request that a text names in back quotes by the flag of a command line tool that sets
// it: `chunk_size` becomes --chunk-size.
func Flags(text string) string {
	return field.ReplaceAllStringFunc(text, func(name string) string {
		return "--" + strings.ReplaceAll(strings.Trim(name, "`"), "_", "-")
	})
}
