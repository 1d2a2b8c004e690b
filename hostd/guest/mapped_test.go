package guest

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUsedBy: a file that a process maps, or has open, is in use as long as the process lives.
func TestUsedBy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "virtswarm-file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid, err := usedBy(path); err != nil || pid != 0 {
		t.Fatalf("a file that nobody uses: process %d, %v", pid, err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("cat")
	child.ExtraFiles = []*os.File{file}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	if _, err := in.Write([]byte("up\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" { // now its libraries are mapped
		t.Fatalf("cat says %q, %v", line, err)
	}
	if pid, err := usedBy(path); err != nil || pid != child.Process.Pid {
		t.Errorf("open in process %d: found %d, %v", child.Process.Pid, pid, err)
	}
	program, err := filepath.EvalSymlinks(child.Path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "program") // nobody else has this one mapped
	if text, err := os.ReadFile(program); err != nil || os.WriteFile(copied, text, 0o700) != nil {
		t.Fatal(err)
	}
	mapping := exec.Command(copied)
	held, err := mapping.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := mapping.Start(); err != nil {
		t.Fatal(err)
	}
	if pid, err := usedBy(copied); err != nil || pid != mapping.Process.Pid {
		t.Errorf("mapped by process %d: found %d, %v", mapping.Process.Pid, pid, err)
	}
	for _, end := range []interface{ Close() error }{in, held} {
		end.Close()
	}
	if err := child.Wait(); err != nil && !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
	if err := mapping.Wait(); err != nil {
		t.Error(err)
	}
	for _, p := range []string{path, copied} {
		if pid, err := usedBy(p); err != nil || pid != 0 {
			t.Errorf("%s, after its process has ended: process %d, %v", p, pid, err)
		}
	}
}
