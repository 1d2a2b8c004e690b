package shmring

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// childEnv makes this test binary the other process of a test: "ROLE NETWORK ADDRESS SPIN NUMBER".
const childEnv = "SHMRING_TEST_CHILD"

func TestMain(m *testing.M) {
	role := os.Getenv(childEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := child(strings.Fields(role)); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(args []string) error {
	role, network, address := args[0], args[1], args[2]
	spin, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	conns := 1
	if role == "hold" {
		conns = n
	}
	var c net.Conn
	for range conns {
		if network == "shm" {
			c, err = Dial(context.Background(), address, Options{Spin: spin})
		} else {
			c, err = net.Dial(network, address)
		}
		if err != nil {
			return err
		}
	}
	fmt.Println("ready")
	switch role {
	case "hold": // until it is killed
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	case "sink":
		buf := make([]byte, n)
		total := uint64(0)
		for {
			n, err := c.Read(buf)
			total += uint64(n)
			if err == io.EOF {
				if _, err := c.Write(binary.LittleEndian.AppendUint64(nil, total)); err != nil {
					return err
				}
				return c.Close()
			} else if err != nil {
				return err
			}
		}
	case "echo":
		buf := make([]byte, n)
		for {
			if _, err := io.ReadFull(c, buf); err == io.EOF {
				return c.Close()
			} else if err != nil {
				return err
			}
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("no role %s", role)
}

// startChild returns when the child has connected. The child is killed at the end, if it has not ended.
func startChild(t testing.TB, role, network, address string, spin time.Duration, n int) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %s %d", childEnv, role, network, address, spin, n))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	return cmd
}
