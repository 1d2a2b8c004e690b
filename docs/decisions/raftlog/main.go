// Command raftlog compares the log of package raft/raftlog with the log stores that HashiCorp makes for hashicorp/raft:
// what an append takes, whether truncation and reopening work, and what each says of a file that was damaged.
//
//	go run . [-dir DIR] [-entries N] [-runs N]
//
// DIR must be on a disk whose speed matters; each store gets directories of its own below it, which are removed in the
// end.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/raft"
)

// child names what a process does that the program starts of itself, as a damaged file may end it.
const child = "RAFTLOG_CHILD"

func main() {
	dir := flag.String("dir", "", "directory on the disk to measure (default: the one for temporary files)")
	count := flag.Uint64("entries", 2000, "entries in a log")
	runs := flag.Int("runs", 5, "runs of which the median is told")
	flag.Parse()
	if name := os.Getenv(child); name != "" {
		look(name, *dir, *count)
		return
	}
	work, err := os.MkdirTemp(*dir, "raftlog-")
	if err == nil {
		err = errors.Join(compare(work, *count, *runs), os.RemoveAll(work))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "raftlog:", err)
		os.Exit(1)
	}
}

// compare prints all tables.
func compare(work string, count uint64, runs int) error {
	fmt.Printf("%d entries of %d bytes, durable one by one; medians of %d runs\n\n", count, entrySize, runs)
	if err := speed(work, count, runs); err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "\nstore\twhat was done to it\tthen\n")
	for _, k := range kinds {
		verdict := "every entry is right"
		if err := truncate(k, filepath.Join(work, k.name+"-truncate")); err != nil {
			verdict = err.Error()
		}
		fmt.Fprintf(out, "%s\tsuffix and prefix deleted, reopened\t%s\n", k.name, verdict)
	}
	for _, d := range damages {
		for _, k := range kinds {
			verdict, err := trial(k, d, filepath.Join(work, k.name+"-"+d.name), count)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", k.name, d.name, err)
			}
			fmt.Fprintf(out, "%s\t%s\t%s\n", k.name, d.what(count), verdict)
		}
	}
	return out.Flush()
}

// speed appends entries one by one to each store in turn.
func speed(work string, count uint64, runs int) error {
	took := map[string][]time.Duration{}
	for run := range runs {
		for _, k := range kinds {
			dir := filepath.Join(work, fmt.Sprint(k.name, "-speed-", run))
			s, err := k.make(dir)
			if err != nil {
				return err
			}
			began := time.Now()
			for i := uint64(1); i <= count; i++ {
				if err := s.StoreLogs([]*raft.Log{entry(i, 1)}); err != nil {
					return fmt.Errorf("%s: append entry %d: %w", k.name, i, err)
				}
			}
			took[k.name] = append(took[k.name], time.Since(began)/time.Duration(count))
			if err := errors.Join(s.Close(), os.RemoveAll(dir)); err != nil {
				return err
			}
		}
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "store\tan append takes\t÷ ours\tfastest and slowest run\n")
	var ours time.Duration
	for _, k := range kinds {
		t := took[k.name]
		slices.Sort(t)
		median := t[len(t)/2]
		if ours == 0 {
			ours = median
		}
		fmt.Fprintf(out, "%s\t%v\t%.1f\t%v, %v\n", k.name, micros(median), float64(median)/float64(ours), micros(t[0]), micros(t[len(t)-1]))
	}
	return out.Flush()
}

func micros(d time.Duration) time.Duration { return d.Round(time.Microsecond) }

// truncate does to a log what Raft does: a leader's other entries replace the last ones, and a snapshot the first ones.
func truncate(k kind, dir string) error {
	s, err := k.make(dir)
	if err != nil {
		return err
	}
	for i := uint64(1); i <= 200; i++ {
		if err := s.StoreLogs([]*raft.Log{entry(i, 1)}); err != nil {
			return err
		}
	}
	if err := errors.Join(s.DeleteRange(151, 200), s.StoreLogs([]*raft.Log{entry(151, 2), entry(152, 2)}), s.DeleteRange(1, 50), s.Close()); err != nil {
		return err
	}
	if s, err = k.make(dir); err != nil {
		return err
	}
	defer s.Close()
	if last, err := s.LastIndex(); err != nil || last != 152 {
		return fmt.Errorf("ends at %d (%w)", last, err)
	}
	for i := uint64(51); i <= 152; i++ {
		term := uint64(1)
		if i > 150 {
			term = 2
		}
		if err := check(s, i, term); err != nil {
			return err
		}
	}
	return nil
}

// trial writes a log, damages it, and has another process look at it.
func trial(k kind, d damage, dir string, count uint64) (string, error) {
	s, err := k.make(dir)
	if err != nil {
		return "", err
	}
	for i := uint64(1); i <= count; i++ {
		if err := s.StoreLogs([]*raft.Log{entry(i, 1)}); err != nil {
			return "", err
		}
	}
	if err := s.Close(); err != nil {
		return "", err
	}
	if err := d.do(dir, count); err != nil {
		return "", err
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, "-dir", dir, "-entries", fmt.Sprint(count))
	cmd.Env = append(os.Environ(), child+"="+k.name)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return strings.TrimSpace(string(out)), nil
	}
	for line := range strings.Lines(string(out)) {
		for _, end := range []string{"panic: ", "fatal error: ", "unexpected fault address"} {
			if strings.HasPrefix(line, end) {
				return "the process ends: " + strings.TrimSpace(line), nil
			}
		}
	}
	return "", fmt.Errorf("%w: %s", err, out)
}

// look opens a damaged log, reads all of it, and prints what a host would hear.
func look(name, dir string, count uint64) {
	k := kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })]
	s, err := k.make(dir)
	if err != nil {
		fmt.Printf("refused at open: %.90s…\n", strings.ReplaceAll(err.Error(), dir+"/", ""))
		return
	}
	last, err := s.LastIndex()
	if err != nil {
		fmt.Println("refused at LastIndex:", err)
		return
	}
	wrong, refused := 0, ""
	for i := uint64(1); i <= last; i++ {
		var differs differsError
		switch err := check(s, i, 1); {
		case errors.As(err, &differs):
			wrong++
		case err != nil && refused == "":
			refused = fmt.Sprintf("; entry %d is refused at its read: %.60s", i, err)
		}
	}
	fmt.Printf("opens without a word; %d of %d entries are there, %d of them wrong%s", last, count, wrong, refused)
	if v, ok := s.(*verified); ok {
		fmt.Print("; ", v.checkpoint(last, count))
	}
	fmt.Println()
}
