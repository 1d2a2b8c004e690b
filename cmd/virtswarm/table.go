package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// columnGap is the space between the columns of a table.
const columnGap = 2

// idDigits is how much of a digest tables show: enough to tell versions apart, and to name one in a command.
const idDigits = len("b3:") + 12

// table is text in aligned columns.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, columns ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, columnGap, ' ', 0)}
	if len(columns) > 0 {
		t.row(list(columns, func(c string) any { return c })...)
	}
	return t
}

// row adds a line. The last column is not padded, so lines have no blanks at their ends unless it is empty.
func (t *table) row(cells ...any) {
	text := list(cells, func(c any) string { return fmt.Sprint(c) })
	fmt.Fprintln(t.w, strings.Join(text, "\t"))
}

// flush writes the table; only then do errors of writing show.
func (t *table) flush() error { return t.w.Flush() }

func size(n uint64) string { return humanize.IBytes(n) }

func rate(bytesPerSecond float64) string {
	return humanize.IBytes(uint64(max(bytesPerSecond, 0))) + "/s"
}

// seconds gives a time as people say it: "850ms", "12.3s", "4m10s".
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func shortID(id string) string { return id[:min(len(id), idDigits)] }

func when(unix int64) string { return time.Unix(unix, 0).Format("2006-01-02 15:04") }

// plural gives "1 host", "2 hosts".
func plural[N uint32 | uint64 | int](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// copies gives what is there of what is wanted: "2", or "1 of 2" where some are missing.
func copies(made, wanted uint32) string {
	if made >= wanted {
		return fmt.Sprint(made)
	}
	return fmt.Sprintf("%d of %d", made, wanted)
}

// list converts the elements of a list.
func list[T, S any](in []T, convert func(T) S) []S {
	out := make([]S, 0, len(in))
	for _, v := range in {
		out = append(out, convert(v))
	}
	return out
}
