package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/placement"
)

func TestMain(m *testing.M) {
	// Scripts wait for elections, not for a processor. The command line may say otherwise.
	_ = flag.Set("test.parallel", "8")
	testscript.Main(m, map[string]func(){"virtswarm": main})
}

// TestScripts runs testdata/script: the program as a process of its own, against a cluster of whole hosts that each
// script starts for itself. $VIRTSWARM_SOCKET is that of alpha, $BETA and $GAMMA are those of the others, and
// $CLUSTER is a directory on the file system of the stores.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			c, err := newCluster()
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := c.close(); err != nil {
					env.T().Log("the cluster ended badly: ", err)
					env.T().FailNow()
				}
			})
			env.Values[clusterKey{}] = c
			env.Setenv(api.SocketVariable, c.socket("alpha"))
			env.Setenv("BETA", c.socket("beta"))
			env.Setenv("GAMMA", c.socket("gamma"))
			env.Setenv("CLUSTER", c.dir)
			env.Setenv("DEVICE", aDevice())
			env.Setenv("LONG", strings.Repeat("n", 300)) // too long for an element of a path
			env.Setenv("TZ", "UTC")
			// A program built with -race waits a second at its end for reports of others.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Getuid() == 0, nil
			case "sys":
				_, err := os.Stat("/sys/kernel/mm/transparent_hugepage/enabled")
				return err == nil, nil
			case "device":
				return aDevice() != "", nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     cmdExits,
			"together":  cmdTogether,
			"cluster":   cmdCluster,
			"domain":    cmdDomain,
			"until":     cmdUntil,
			"interrupt": cmdInterrupt,
			"capture":   cmdCapture,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// aDevice is a block device of this machine, to be looked at; "" if there is none.
func aDevice() string {
	for _, path := range []string{"/dev/loop0", "/dev/sda", "/dev/vda"} {
		if info, err := os.Stat(path); err == nil && disk.IsDevice(info) {
			return path
		}
	}
	return ""
}

type clusterKey struct{}

func clusterOf(ts *testscript.TestScript) *cluster {
	return ts.Value(clusterKey{}).(*cluster)
}

// cmdExits runs virtswarm and wants an exit code: exits CODE ARGS...
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	wantCode(ts, args[0], ts.Exec("virtswarm", args[1:]...))
}

func wantCode(ts *testscript.TestScript, want string, err error) {
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != want {
		ts.Fatalf("exit code %d, want %s", got, want)
	}
}

// cmdTogether runs virtswarm for each line of a file, all at once, and wants an exit code of each: together CODE FILE.
func cmdTogether(ts *testscript.TestScript, _ bool, args []string) {
	var running []*exec.Cmd
	begun := time.Now()
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		cmd := program(ts, strings.Fields(line))
		cmd.Stdout, cmd.Stderr = new(bytes.Buffer), new(bytes.Buffer)
		ts.Check(cmd.Start())
		running = append(running, cmd)
	}
	for _, cmd := range running {
		err := cmd.Wait()
		ts.Logf("%v after %v", cmd.Args[1:], time.Since(begun))
		fmt.Fprint(ts.Stdout(), cmd.Stdout)
		fmt.Fprint(ts.Stderr(), cmd.Stderr)
		wantCode(ts, args[0], err)
	}
}

// cmdCluster starts the cluster and does something to it:
//
//	cluster N             starts alpha, beta and gamma, or the first N of them
//	cluster wait N        starts them without a cluster: they wait for init or join
//	cluster down HOST     stops a daemon, once the votes are settled, and waits until it counts as down
//	cluster up HOST       starts it again and waits until it counts as alive
//	cluster leaderless    cuts alpha off until it knows no leader; the other two, if they have votes, have one
//	cluster leader        takes that back
//	cluster damage HOST NAME   flips a byte of what the host has stored of a name
//	cluster stall HOST    has the disk of the host hang until the end of the next interrupt
//	cluster resume        until now
//	cluster anew          makes a new cluster of the hosts, over the old stores
func cmdCluster(ts *testscript.TestScript, _ bool, args []string) {
	c := clusterOf(ts)
	if n, err := strconv.Atoi(args[0]); err == nil {
		ts.Check(c.form(n))
		return
	}
	switch args[0] {
	case "wait":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		ts.Check(c.wait(n))
	case "down":
		ts.Check(c.down(args[1]))
	case "up":
		ts.Check(c.up(args[1]))
	case "leaderless", "leader":
		ts.Check(c.cut(args[0] == "leaderless"))
	case "damage":
		ts.Check(c.damage(args[1], args[2]))
	case "stall":
		ts.Check(c.stall(args[1]))
	case "resume":
		c.resume()
	case "anew":
		ts.Check(c.anew())
	default:
		ts.Fatalf("cluster %s: no such thing can be done to it", args[0])
	}
}

// cmdDomain defines a domain at a host, from its JSON, and waits until the catalogue has it: domain HOST FILE.
func cmdDomain(ts *testscript.TestScript, _ bool, args []string) {
	c := clusterOf(ts)
	h, err := c.named(args[0])
	ts.Check(err)
	var d placement.Domain
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &d))
	h.domains.define(d)
	ts.Check(c.knows(d.UUID, h.cfg.Name))
}

// cmdUntil runs virtswarm until its output matches: until PATTERN ARGS...
func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	ts.Check(eventually("the output matches "+args[0], func(context.Context) (bool, error) {
		out, err := program(ts, args[1:]).Output()
		if err == nil && !want.Match(out) {
			err = fmt.Errorf("the output is\n%s", out)
		}
		return true, err
	}))
}

// program is virtswarm as a script runs it.
func program(ts *testscript.TestScript, args []string) *exec.Cmd {
	path, err := exec.LookPath("virtswarm")
	ts.Check(err)
	cmd := exec.Command(path, args...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), api.SocketVariable+"="+ts.Getenv(api.SocketVariable), "TZ=UTC", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// cmdInterrupt runs virtswarm, sends it a SIGINT once the disk that stalls is waited for (if none does: once alpha has
// the request), wants 130, and waits until alpha has noticed: interrupt ARGS...
func cmdInterrupt(ts *testscript.TestScript, _ bool, args []string) {
	c := clusterOf(ts)
	call := c.hosts[0].door.await()
	cmd := program(ts, args)
	cmd.Stderr, cmd.Stdout = ts.Stderr(), ts.Stdout()
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	underWay := c.reached
	if underWay == nil {
		underWay = call.arrived
	}
	var err error
	select {
	case <-underWay:
		ts.Check(cmd.Process.Signal(os.Interrupt))
		err = <-ended
	case err = <-ended:
	}
	<-call.ended
	c.resume()
	wantCode(ts, "130", err)
}

// cmdCapture sets a variable to the first group of a pattern in the last standard output: capture VAR PATTERN.
func cmdCapture(ts *testscript.TestScript, _ bool, args []string) {
	m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if m == nil {
		ts.Fatalf("%s is not in the output", args[1])
	}
	ts.Setenv(args[0], m[1])
}
