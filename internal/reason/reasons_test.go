package reason

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEveryReasonHasItsOwnExitCode(t *testing.T) {
	codes := make(map[int]string)
	names := make(map[string]bool)
	for _, e := range Explanations() {
		if other, taken := codes[e.Reason.ExitCode()]; taken {
			t.Errorf("%s and %s share exit code %d", e.Name, other, e.Reason.ExitCode())
		}
		if names[e.Name] {
			t.Errorf("%s is there twice", e.Name)
		}
		codes[e.Reason.ExitCode()], names[e.Name] = e.Name, true
		if e.Reason.ExitCode() < 1 || e.Reason.ExitCode() > 255 {
			t.Errorf("%s: no process can exit with %d", e.Name, e.Reason.ExitCode())
		}
		if e.Sentence == "" || e.Hint == "" {
			t.Errorf("%s: sentence %q and hint %q must be set", e.Name, e.Sentence, e.Hint)
		}
		if e.Sentence != strings.TrimSuffix(e.Sentence, ".") || e.Sentence[:1] != strings.ToLower(e.Sentence[:1]) {
			t.Errorf("%s: %q must read well in the middle of a line", e.Name, e.Sentence)
		}
	}
	if !slices.IsSortedFunc(Explanations(), func(a, b Explanation) int { return int(a.Reason - b.Reason) }) {
		t.Error("the table is not ordered by exit code")
	}
}

func TestUnknownReasonIsUnexpected(t *testing.T) {
	for _, r := range []Reason{0, 99} {
		if e := r.Explain(); e.Reason != Unexpected {
			t.Errorf("reason %d is explained as %s, want %s", int(r), e.Name, Unexpected)
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
		want = append(want, fmt.Sprintf("| %d | `%s` | %s |", e.Reason.ExitCode(), e.Name, e.Sentence))
	}
	got := regexp.MustCompile("(?m)^\\| [0-9]+ \\| `[a-z-]+` \\|.*$").FindAllString(string(text), -1)
	if !slices.Equal(got, want) {
		t.Errorf("docs/operations.md lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
