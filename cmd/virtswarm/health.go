package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// The exit codes of health are those of monitoring plug-ins, and not the reasons of other verbs.
const (
	healthWarning  = 1
	healthCritical = 2
	healthUnknown  = 3
)

// codedError ends the program with an exit code of its own; err may be nil if all was said.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return fmt.Sprint(e.err) }
func (e *codedError) Unwrap() error { return e.err }

func newHealth(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "health",
		GroupID: groupCluster,
		Short:   "Tell what is wrong, and what to do about it",
		Long: `Health asks all hosts and lists what is wrong, the worst first, with what to do next. Its exit codes are those of
monitoring plug-ins: 0 if all is well, 1 for warnings, 2 if something is critical, 3 if the daemon cannot tell.`,
		Example: `  virtswarm health
  virtswarm health --json | jq -r '.findings[] | select(.severity == "critical").text'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return &codedError{healthUnknown, usageError("%v", err)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := c.health(cmd.Context())
			if _, coded := err.(*codedError); err != nil && !coded {
				err = &codedError{healthUnknown, err}
			}
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &codedError{healthUnknown, usageError("%v", err)} })
	return cmd
}

func (c *cli) health(ctx context.Context) error {
	r, err := c.host().Control.Health(ctx, &v1.HealthRequest{})
	if err != nil {
		return err
	}
	nameFlags(r.GetFindings())
	if c.json {
		err = c.printJSON(r)
	} else {
		err = c.showHealth(r)
	}
	if err != nil {
		return err
	}
	switch {
	case len(r.GetFindings()) > 0 && r.GetFindings()[0].GetSeverity() == v1.Severity_SEVERITY_CRITICAL:
		return &codedError{code: healthCritical}
	case len(r.GetFindings())+len(r.GetSilent()) > 0:
		return &codedError{code: healthWarning}
	}
	return nil
}

// showHealth prints the list for people. Its first line is about the worst, which is all that some monitoring shows.
func (c *cli) showHealth(r *v1.HealthResponse) error {
	var b strings.Builder
	for _, f := range r.GetFindings() {
		fmt.Fprintf(&b, "%s %s: %s\n", strings.ToUpper(word(f.GetSeverity())), about(f), f.GetText())
		if f.GetSince() > 0 {
			fmt.Fprintf(&b, "  since: %s\n", when(f.GetSince()))
		}
		fmt.Fprintf(&b, "  next:  %s\n", f.GetNext())
	}
	if silent := r.GetSilent(); len(silent) > 0 {
		fmt.Fprintf(&b, "WARNING no answer from %s: what is wrong there is not known\n  next:  %s\n",
			strings.Join(silent, ", "), "look whether virtswarmd runs there; a host that stays silent is soon listed as down")
	}
	if b.Len() == 0 {
		b.WriteString("all is well\n")
	}
	_, err := fmt.Fprint(c.stdout, b.String())
	if err == nil {
		c.noteStale(r.GetStaleness())
	}
	return err
}

// about gives a finding's kind, and what it is about.
func about(f *v1.Finding) string {
	if f.GetSubject() == "" {
		return f.GetKind()
	}
	return f.GetKind() + " " + f.GetSubject()
}

// showFindings ends a status with what is wrong.
func (c *cli) showFindings(findings []*v1.Finding) error {
	if len(findings) == 0 {
		return nil
	}
	fmt.Fprintln(c.stdout)
	t := newTable(c.stdout, "WRONG", "WHAT", "ABOUT", "SINCE")
	for _, f := range findings {
		since := "?"
		if f.GetSince() > 0 {
			since = when(f.GetSince())
		}
		subject := f.GetSubject()
		if subject == "" {
			subject = "the cluster"
		}
		t.row(word(f.GetSeverity()), f.GetKind(), subject, since)
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.stdout, "what to do: virtswarm health")
	return err
}

// nameFlags names flags where the daemons name fields.
func nameFlags(findings []*v1.Finding) {
	for _, f := range findings {
		f.Next = reason.Flags(f.GetNext())
	}
}
