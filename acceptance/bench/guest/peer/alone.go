package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// memcpy is what one copy costs. Both ends are larger than most caches of a core and smaller than those of a processor,
// as the rings of a region are.
func memcpy(limit string) (found Found, err error) {
	long, err := time.ParseDuration(limit)
	if err != nil {
		return found, err
	}
	src, dst := make([]byte, 2<<20), make([]byte, 2<<20)
	copy(dst, src)
	start := time.Now()
	for at := 0; time.Since(start) < long; at = (at + piece) % len(src) {
		found.Bytes += int64(copy(dst[at:at+piece], src[at:]))
	}
	found.Seconds = time.Since(start).Seconds()
	return found, nil
}

// blake3 cuts and hashes a file, as an agent that publishes it does.
func blake3(path string) (found Found, err error) {
	f, err := os.Open(path)
	if err != nil {
		return found, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return found, err
	}
	start := time.Now()
	_, err = content.ChunkFile(context.Background(), f, info.Size(), content.ChunkOptions{ChunkSize: content.DefaultChunkSize})
	return Found{Bytes: info.Size(), Seconds: time.Since(start).Seconds()}, err
}

// regions is how many there are at which nothing happens: more than a host has guests.
const regions = 500

// idle measures the processor time that they take, each with a listener and, or not, with a connection of which both
// ends wait to read.
func idle(connected bool, limit string) (found Found, err error) {
	long, err := time.ParseDuration(limit)
	if err != nil {
		return found, err
	}
	failed := make(chan error, 2*regions)
	for i := range regions {
		path := fmt.Sprintf("region-%t-%d", connected, i)
		if err := shmring.Create(path, shmring.MinSize, -1, -1); err != nil {
			return found, err
		}
		defer unix.Unlink(path)
		l, err := shmring.Listen(path, shmring.Options{})
		if err != nil {
			return found, err
		}
		defer l.Close()
		if !connected {
			continue
		}
		go func() {
			c, err := shmring.Dial(context.Background(), path, shmring.Options{})
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			failed <- err
		}()
		c, err := l.Accept()
		if err != nil {
			return found, err
		}
		defer c.Close()
		go func() {
			_, err := c.Read(make([]byte, 1))
			failed <- err
		}()
	}
	time.Sleep(500 * time.Millisecond) // what is measured is what remains
	start, before := time.Now(), cpuTime()
	select {
	case err := <-failed:
		return found, fmt.Errorf("a connection at which nothing happens ended: %w", err)
	case <-time.After(long):
	}
	found.Seconds = time.Since(start).Seconds()
	found.Part = (cpuTime() - before).Seconds() / found.Seconds
	return found, nil
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // cannot fail for a valid argument
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
