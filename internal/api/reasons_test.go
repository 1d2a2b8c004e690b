package api

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func TestEveryReasonHasItsOwnExitCode(t *testing.T) {
	codes := make(map[int]string)
	names := make(map[string]bool)
	for _, e := range Explanations() {
		if other, taken := codes[e.ExitCode]; taken {
			t.Errorf("%s and %s share exit code %d", e.Name, other, e.ExitCode)
		}
		if names[e.Name] {
			t.Errorf("%s is there twice", e.Name)
		}
		codes[e.ExitCode], names[e.Name] = e.Name, true
		if e.ExitCode < 1 || e.ExitCode > 255 {
			t.Errorf("%s: no process can exit with %d", e.Name, e.ExitCode)
		}
		if e.Sentence == "" || e.Hint == "" || e.code == 0 {
			t.Errorf("%s: sentence %q, hint %q and code %v must all be set", e.Name, e.Sentence, e.Hint, e.code)
		}
		if e.Sentence != strings.TrimSuffix(e.Sentence, ".") || e.Sentence[:1] != strings.ToLower(e.Sentence[:1]) {
			t.Errorf("%s: %q must read well in the middle of a line", e.Name, e.Sentence)
		}
	}
	for number, name := range v1.Reason_name {
		if number != 0 && codes[int(number)] == "" {
			t.Errorf("%s (%d) is not explained", name, number)
		}
	}
	if !slices.IsSortedFunc(Explanations(), func(a, b Explanation) int { return a.ExitCode - b.ExitCode }) {
		t.Error("the table is not ordered by exit code")
	}
}

func TestUnknownReasonIsUnexpected(t *testing.T) {
	for _, r := range []Reason{v1.Reason_REASON_UNSPECIFIED, 99} {
		if e := Explain(r); e.Reason != Unexpected {
			t.Errorf("Explain(%d) = %s, want %s", r, e.Name, Explain(Unexpected).Name)
		}
	}
}

// TestManualListsExitCodes compares the table of docs/operations.md with the one of this package.
func TestManualListsExitCodes(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, e := range Explanations() {
		want = append(want, fmt.Sprintf("| %d | `%s` | %s |", e.ExitCode, e.Name, e.Sentence))
	}
	got := regexp.MustCompile("(?m)^\\| [0-9]+ \\| `[a-z-]+` \\|.*$").FindAllString(string(text), -1)
	if !slices.Equal(got, want) {
		t.Errorf("docs/operations.md lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
