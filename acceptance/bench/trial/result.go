package trial

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Results is where results go, in the directory of the benches.
const Results = "results"

// Result is what a bench leaves on disk.
type Result struct {
	Bench   string    `json:"bench"`
	Began   time.Time `json:"began"`
	Commit  string    `json:"commit"` // of the checkout, with a + if it was changed; empty if unknown
	Machine Machine   `json:"machine"`
	Command []string  `json:"command"`
	Runs    any       `json:"runs"` // all that was measured, as the bench has it
}

// Machine says on what the bench ran.
type Machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Memory  string `json:"memory"`
	Kernel  string `json:"kernel"`
	Go      string `json:"go"`
	LoadWas string `json:"load_before"` // the three averages at the beginning
}

// Begin notes the machine and the time before a bench runs.
func Begin(bench string) *Result {
	r := &Result{Bench: bench, Began: time.Now().UTC().Truncate(time.Second), Command: os.Args[1:]}
	r.Machine = Machine{
		CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Memory: field("/proc/meminfo", "MemTotal"),
		Kernel: first("/proc/sys/kernel/osrelease"), Go: runtime.Version(), LoadWas: first("/proc/loadavg"),
	}
	if words := strings.Fields(r.Machine.LoadWas); len(words) > 3 {
		r.Machine.LoadWas = strings.Join(words[:3], " ")
	}
	if commit, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output(); err == nil {
		r.Commit = strings.TrimSpace(string(commit))
		if err := exec.Command("git", "diff", "--quiet", "HEAD").Run(); err != nil {
			r.Commit += "+"
		}
	}
	fmt.Printf("%d cores, %s, load %s before\n", r.Machine.Cores, r.Machine.CPU, r.Machine.LoadWas)
	return r
}

// Save writes all runs as JSON to dir, under a name with the bench and the date.
func (r *Result) Save(dir string, runs any) error {
	r.Runs = runs
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetIndent("", " ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%s.json", r.Bench, r.Began.Format("2006-01-02T1504")))
	fmt.Println("\nall runs:", path)
	return os.WriteFile(path, text.Bytes(), 0o644)
}

// field returns the value of the first line "key : value" of a file; empty if there is none.
func field(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func first(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
