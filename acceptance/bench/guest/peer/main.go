// Command peer is one end of a bare channel, for package benchguest: it moves bytes that nobody looks at. It runs on
// the host and, static, in the guest.
//
//	peer serve NETWORK ADDRESS [SPIN]        the host's end, call after call, until it is killed; says "ready"
//	peer run OP NETWORK ADDRESS LIMIT [SPIN] the guest's end: OP is send or receive, and LIMIT how long, or it is echo,
//	                                         and LIMIT how many round trips; says what it found, as JSON
//	peer memcpy LIMIT                        copies within the process
//	peer idle listening|connected LIMIT      500 regions at which nothing happens, in the working directory
//	peer blake3 FILE                         cuts and hashes a file
//
// NETWORK is shm, whose address is a region that is there, unix or tcp. SPIN is shmring's; 0 is its default.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// Found is what a run found: of send, receive, memcpy and blake3 the bytes and how long they took, of echo the times of
// a round trip in seconds, of idle the part of a processor that it took.
type Found struct {
	Bytes   int64   `json:"bytes,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Median  float64 `json:"median,omitempty"`
	P99     float64 `json:"p99,omitempty"`
	Part    float64 `json:"part,omitempty"`
}

func main() {
	found, err := act(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func act(args []string) (Found, error) {
	at := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch at(0) {
	case "serve":
		spin, err := duration(at(3))
		if err != nil {
			return Found{}, err
		}
		return Found{}, serve(at(1), at(2), spin)
	case "run":
		spin, err := duration(at(5))
		if err != nil {
			return Found{}, err
		}
		return run(at(1), at(2), at(3), at(4), spin)
	case "memcpy":
		return memcpy(at(1))
	case "idle":
		return idle(at(1) == "connected", at(2))
	case "blake3":
		return blake3(at(1))
	}
	return Found{}, errors.New("it does serve, run, memcpy, idle and blake3")
}

func duration(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	return time.ParseDuration(text)
}
