package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/virtswarm/virtswarm/hostd/server/servertest"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"virtswarm": main})
}

// TestScripts runs testdata/script: the program as a process of its own, against a real server on a real socket
// and a cluster of three hosts in memory.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			cluster := servertest.New("alpha", "beta", "gamma")
			socket, stop, err := servertest.Serve(cluster)
			if err != nil {
				return err
			}
			env.Defer(stop)
			env.Values[clusterKey{}] = cluster
			addGuests(cluster)
			addStrays(cluster)
			env.Setenv(api.SocketVariable, socket)
			env.Setenv("TZ", "UTC")
			// A program built with -race waits a second at its end for reports of others.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     cmdExits,
			"cluster":   cmdCluster,
			"interrupt": cmdInterrupt,
			"capture":   cmdCapture,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// addGuests defines the domains of guests.txtar.
func addGuests(cluster *servertest.Host) {
	cluster.AddGuest(&v1.Guest{
		Uuid: "22222222-2222-4222-8222-222222222222", Name: "db", State: v1.GuestState_GUEST_STATE_OFF, Host: "gamma", Manager: "libvirt",
		Vcpus: 4, Memory: 2 << 30,
	})
	cluster.AddGuest(&v1.Guest{
		Uuid: "11111111-1111-4111-8111-111111111111", Name: "web", State: v1.GuestState_GUEST_STATE_RUNNING, Host: "beta", Manager: "libvirt",
		Vcpus: 2, Memory: 1 << 30, Cid: 42, Migration: "out", Tags: []string{"blue", "web"}, Others: []string{"gamma"},
		Disks: []*v1.GuestDisk{{Target: "vda", Chain: []string{"/i/web.qcow2", "/i/base.raw"}}},
	})
}

// addStrays puts the strays of strays.txtar into stores.
func addStrays(cluster *servertest.Host) {
	at := time.Date(2026, 5, 4, 3, 2, 0, 0, time.UTC)
	for i, names := range [][]string{{"images/x", "x"}, {}, {"images/part"}} {
		cluster.AddStray(&v1.Stray{
			HostId: "0c9a", Host: []string{"alpha", "alpha", "beta"}[i], Id: fmt.Sprintf("b3:%064x", i+1), Size: 128 << 20, DataBytes: 1 << 20,
			Shards: 2, HeldShards: []uint32{2, 2, 1}[i], HeldBytes: 1 << 20, Names: names, Cluster: []string{"5f1c", "", "5f1c"}[i],
			Since: at.Unix(), Until: at.Add(7 * 24 * time.Hour).Unix(),
		})
	}
}

type clusterKey struct{}

func clusterOf(ts *testscript.TestScript) *servertest.Host {
	return ts.Value(clusterKey{}).(*servertest.Host)
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

// cmdCluster injects faults: cluster down HOST | up HOST | leaderless | leader | quota BYTES | damage HOST NAME.
func cmdCluster(ts *testscript.TestScript, _ bool, args []string) {
	h := clusterOf(ts)
	switch args[0] {
	case "down", "up":
		ts.Check(h.SetDown(args[1], args[0] == "down"))
	case "leaderless", "leader":
		h.SetLeader(args[0] == "leader")
	case "quota":
		n, err := strconv.ParseUint(args[1], 10, 64)
		ts.Check(err)
		h.SetQuota(n)
	case "damage":
		ts.Check(h.Damage(args[1], args[2]))
	default:
		ts.Fatalf("cluster %s: no such fault", args[0])
	}
}

// cmdInterrupt runs virtswarm, sends it a SIGINT while the operation is under way at the host, and wants 130:
// interrupt OPERATION ARGS...
func cmdInterrupt(ts *testscript.TestScript, _ bool, args []string) {
	hold := clusterOf(ts).Hold(args[0])
	defer hold.Release()
	path, err := exec.LookPath("virtswarm")
	ts.Check(err)
	cmd := exec.Command(path, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), api.SocketVariable+"="+ts.Getenv(api.SocketVariable), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr, cmd.Stdout = ts.Stderr(), ts.Stdout()
	ts.Check(cmd.Start())
	<-hold.Arrived()
	ts.Check(cmd.Process.Signal(os.Interrupt))
	wantCode(ts, "130", cmd.Wait())
	<-hold.Gone() // the host has noticed too
}

// cmdCapture sets a variable to the first group of a pattern in the last standard output: capture VAR PATTERN.
func cmdCapture(ts *testscript.TestScript, _ bool, args []string) {
	m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if m == nil {
		ts.Fatalf("%s is not in the output", args[1])
	}
	ts.Setenv(args[0], m[1])
}
