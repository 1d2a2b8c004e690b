// Package trial is what all benches share: their settings, the files that they move, one kind of table, and results on
// disk.
package trial

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// EnvOr returns an environment variable, or def if it is empty: make passes settings so.
func EnvOr(key, def string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return def
}

// RandomFile makes a file of random bytes.
func RandomFile(path string, size int64) error { return fill(path, rand.Reader, size) }

// Warm touches as much memory as will be used, by a file of zeros that goes again. On a virtual machine memory that is
// used for the first time costs page faults in the machine's own hypervisor, and the tool that happens to touch it
// would pay.
func Warm(path string, size int64) error {
	return errors.Join(fill(path, zeros{}, size), os.Remove(path))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func fill(path string, from io.Reader, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(from, size), make([]byte, 1<<20))
	return errors.Join(err, f.Close())
}

// Median returns the middle one of values, the upper of two; NaN if there is none.
func Median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return math.NaN()
	}
	return v[len(v)/2]
}

// Figures are what was measured: the values of each run by the name of the figure.
type Figures map[string][]float64

// Add notes the value of a run.
func (f Figures) Add(name string, v float64) { f[name] = append(f[name], v) }

// Median returns that of the runs; NaN if there were none.
func (f Figures) Median(name string) float64 { return Median(f[name]) }

// Table is printed line by line, once all of it is there.
type Table struct{ w *tabwriter.Writer }

// NewTable begins a table with a title and the heads of its columns, but for the first, which has names.
func NewTable(title string, heads ...string) *Table {
	fmt.Printf("\n%s\n", title)
	t := &Table{tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)}
	if len(heads) > 0 {
		t.Line("", heads...)
	}
	return t
}

// Line adds a line.
func (t *Table) Line(name string, cells ...string) {
	fmt.Fprintln(t.w, name+"\t"+strings.Join(cells, "\t"))
}

// End prints the table.
func (t *Table) End() { t.w.Flush() }

// Num is a figure in a cell, empty if there is none; digits are those behind the point.
func Num(v float64, digits int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return fmt.Sprintf("%.*f", digits, v)
}
