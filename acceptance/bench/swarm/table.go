package swarm

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
)

// median is that of the runs of a tool in a scenario, or -1 if none succeeded.
func (s *series) median(tool, scenario string, of func(outcome) float64) float64 {
	var v []float64
	for _, o := range s.outcomes {
		if o.Tool == tool && o.Scenario == scenario {
			v = append(v, of(o))
		}
	}
	if len(v) == 0 {
		return -1
	}
	return trial.Median(v)
}

// table prints the comparison.
func (s *series) table(tools []tool) {
	fmt.Printf("\n%s, medians of %d run(s)\n", s, s.runs)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "\tfirst, s\tmedian, s\tlast, s\tlast ÷ plain\tpublisher sent, files\tCPU s per GiB\tnote")
	yardstick := s.median(plain.key, "", outcome.last)
	for _, t := range tools {
		m := func(of func(outcome) float64) float64 { return s.median(t.key, "", of) }
		if m(outcome.last) < 0 {
			fmt.Fprintf(w, "%s\t\t\t\t\t\t\tno run succeeded\n", t.name)
			continue
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.3f\t%.1f\t%s\n", t.name, m(outcome.first), m(outcome.middle), m(outcome.last),
			m(outcome.last)/yardstick, m(func(o outcome) float64 { return o.Sent }), m(func(o outcome) float64 { return o.CPU }), t.note)
	}
}

// scenarioTable prints what each scenario showed.
func (s *series) scenarioTable() {
	fmt.Printf("\n%s, medians of %d run(s) of virtswarm\n", s, s.runs)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "\tlast, s\tpublisher sent, files\tCPU s per GiB")
	for _, sc := range append([]scenario{undisturbed}, s.scenarios...) {
		m := func(of func(outcome) float64) float64 { return s.median("virtswarm", "/"+sc.key, of) }
		if m(outcome.last) < 0 {
			fmt.Fprintf(w, "%s\tno run succeeded\n", sc.name)
			continue
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.3f\t%.1f\n", sc.name, m(outcome.last), m(func(o outcome) float64 { return o.Sent }), m(func(o outcome) float64 { return o.CPU }))
		for _, f := range sc.figures {
			fmt.Fprintf(w, "    %s\t%.3f\n", f, m(func(o outcome) float64 { return o.Figures[f] }))
		}
	}
}

// figures lists what a scenario measured, for a line of progress.
func figures(o outcome) string {
	text := ""
	for _, sc := range allScenarios {
		if "/"+sc.key != o.Scenario {
			continue
		}
		for _, f := range sc.figures {
			text += fmt.Sprintf("; %s %.3f", f, o.Figures[f])
		}
	}
	return text
}
