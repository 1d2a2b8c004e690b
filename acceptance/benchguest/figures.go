package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// figures are what was measured: the values of each run by the name of the figure.
type figures map[string][]float64

func (f figures) add(name string, v float64) { f[name] = append(f[name], v) }

// median is that of the runs, NaN if there were none.
func (f figures) median(name string) float64 {
	v := slices.Sorted(slices.Values(f[name]))
	if len(v) == 0 {
		return math.NaN()
	}
	return v[len(v)/2]
}

func (f figures) save(path string) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fmt.Println("\nall runs:", path)
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// table is one that is being printed, line by line.
type table struct{ w *tabwriter.Writer }

func newTable(title string, heads ...string) *table {
	fmt.Printf("\n%s\n", title)
	t := &table{tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)}
	t.line("", heads...)
	return t
}

func (t *table) line(name string, cells ...string) {
	fmt.Fprintln(t.w, name+"\t"+strings.Join(cells, "\t"))
}

func (t *table) end() { t.w.Flush() }

// num is a figure in a cell, empty if there is none; digits are those behind the point.
func num(v float64, digits int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return fmt.Sprintf("%.*f", digits, v)
}
