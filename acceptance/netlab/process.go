package netlab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs on a host, with all its children: its process group. Its methods may be called
// concurrently.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once cmd has been waited for
	err   error         // of the wait
	at    time.Time     // of the end
}

// Start starts a command that Host.Command made.
func Start(cmd *exec.Cmd) (*Process, error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", strings.Join(cmd.Args, " "), err)
	}
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		p.at = time.Now()
		close(p.ended)
	}()
	return p, nil
}

// Pid is that of the program, and its process group's.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Wait waits for the program to end; its error is that of exec.Cmd's Wait, with the command in it.
func (p *Process) Wait(ctx context.Context) (at time.Time, err error) {
	select {
	case <-p.ended:
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
	if p.err != nil {
		return p.at, fmt.Errorf("%s: %w", strings.Join(p.cmd.Args, " "), p.err)
	}
	return p.at, nil
}

// ExitCode is that of a program that has ended.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Signal sends a signal to the whole group.
func (p *Process) Signal(s syscall.Signal) error {
	if err := syscall.Kill(-p.Pid(), s); err != nil {
		return fmt.Errorf("signal %s: %w", strings.Join(p.cmd.Args, " "), err)
	}
	return nil
}

// Kill ends the whole group and waits until the program has ended. It may be called more than once.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL) // that it has ended already is fine
	<-p.ended
}

// CPU is the user and system time that the group has used, children that were waited for included, in seconds.
func (p *Process) CPU() float64 {
	total := 0.0
	select {
	case <-p.ended:
		total = (p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()).Seconds()
	default:
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range procs {
		if group, cpu := procStat(path); group == p.Pid() {
			total += cpu
		}
	}
	return total
}

// procStat reads the group of a process and the seconds of CPU that it and its dead children used; see proc(5).
func procStat(path string) (group int, cpu float64) {
	const ticksPerSecond = 100 // USER_HZ, the same on every Linux architecture that Go supports
	stat, err := os.ReadFile(path)
	if err != nil {
		return 0, 0 // it has ended meanwhile
	}
	// The second field is the command in parentheses and may hold spaces.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	group, _ = strconv.Atoi(f[2])
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, _ := strconv.ParseFloat(field, 64)
		cpu += n / ticksPerSecond
	}
	return group, cpu
}

// AwaitListener waits until something listens at a TCP port of the host on which the process runs.
func (p *Process) AwaitListener(ctx context.Context, port int) error {
	for !p.listening(port) {
		select {
		case <-p.ended:
			_, err := p.Wait(ctx)
			return fmt.Errorf("ended without listening at port %d: %w", port, err)
		case <-ctx.Done():
			return fmt.Errorf("await a listener at port %d: %w", port, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// listening looks into the table of sockets of the process' namespace: its second column is ADDRESS:PORT in
// hexadecimal, its fourth the state.
func (p *Process) listening(port int) bool {
	const listen = "0A"
	for _, family := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.Pid(), family))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == listen && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}
